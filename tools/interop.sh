#!/usr/bin/env bash
# Checks with the real PyTorch that what tinygate writes is what others read, and the other way round. Called by
# `make interop` in the environment of tools/with-libtorch. Every script of tests/interop is run, with
#   TINYGATE_BIN        the program
#   TINYGATE_EXAMPLES   the folder of the built examples
# and passes when it exits with 0.
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

scripts=(tests/interop/*.py)
[ -e "${scripts[0]}" ] || fail "there is no script in tests/interop" "the checkout is incomplete: git status"

interop_python=$("$python" tools/interop_env.py)
run_cargo build --workspace --bins --examples
export TINYGATE_BIN=$CARGO_TARGET_DIR/debug/tinygate
export TINYGATE_EXAMPLES=$CARGO_TARGET_DIR/debug/examples
export PYTHONDONTWRITEBYTECODE=1

for script in "${scripts[@]}"; do
    printf '== %s\n' "$script" >&2
    "$interop_python" "$script"
done
echo "interop: ${#scripts[@]} scripts passed"
