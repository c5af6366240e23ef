#!/usr/bin/env bash
# Builds and tests the auditor alone, then the engine and the program without `train`, in a separate target folder and
# without any libtorch: auditing a log needs neither libtorch nor a C++ compiler.
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

alone=(--package tinygate-replay --package tinygate-words --package tinygate-audit --no-default-features)
core=(--package tinygate-advice --package tinygate-numbers --package tinygate-sqrt --package tinygate-events --package tinygate-machine)
core+=(--package tinygate --package tinygate-cli --no-default-features)
export CARGO_TARGET_DIR=$CARGO_TARGET_DIR/replay-alone
export LIBTORCH=$root/there-is-no-libtorch-here
unset LIBTORCH_USE_PYTORCH LIBTORCH_LIB LIBTORCH_INCLUDE

tree=$(cargo tree "${alone[@]}" --edges normal,build,dev --prefix none)
# Make sure that the output is what the checks below expect.
grep -q '^tinygate v' <<<"$tree" || fail "cargo tree does not show the package tinygate under the auditor" "see: cargo tree ${alone[*]}"
if linked=$(grep -E '^(tch|torch-sys) v' <<<"$tree"); then
    fail "the auditor without default features depends on: $(sort -u <<<"$linked" | tr '\n' ' ')" \
        "cargo tree ${alone[*]} --invert torch-sys"
fi
# The auditor only reads logs, so it must not depend on code that writes logs, trains, or reads data or configs.
tree=$(cargo tree "${alone[@]}" --edges normal --prefix none)
grep -q '^tinygate-store v' <<<"$tree" || fail "cargo tree does not show the package tinygate-store under the auditor" "see: cargo tree ${alone[*]}"
if linked=$(grep -E '^(tinygate|sled|rustix|crossbeam-channel|png|hdf5-pure|zip|toml) v' <<<"$tree"); then
    fail "the auditor depends on: $(sort -u <<<"$linked" | tr '\n' ' ')" "cargo tree ${alone[*]} --edges normal"
fi
run_cargo test --package tinygate-store --no-default-features
run_cargo test "${alone[@]}"
run_cargo test "${core[@]}"
# shellcheck disable=SC2086
cargo clippy "${core[@]}" --all-targets ${CARGO_ARGS:-} -- -D warnings
