#!/usr/bin/env bash
# Breaks the store and the machine in small ways; the tests must detect it. Called by `make mutants`.
#   MUTANTS=60    how many of cargo-mutants' mutants, or `all`
#   SEED=0        determines their order, in which store and machine alternate
#   FROM=0        how many of them to skip
#   HAND=all      how many of the hand-made mutants in tests/mutants, or `all`; starts at FROM and wraps around
# Works in a copy of the tree, in the cache.
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

version=27.1.0
tools=$cache/mutants-tools
export CARGO_TARGET_DIR=$CARGO_TARGET_DIR/mutants
# As in tools/replay-alone.sh: no libtorch is needed, so make sure that none is found.
export LIBTORCH=$root/there-is-no-libtorch-here
unset LIBTORCH_USE_PYTORCH LIBTORCH_LIB LIBTORCH_INCLUDE

if ! found=$("$tools/bin/cargo-mutants" mutants --version 2>/dev/null) || [ "$found" != "cargo-mutants $version" ]; then
    echo "mutants: installing cargo-mutants $version into $tools"
    CARGO_TARGET_DIR=$CARGO_TARGET_DIR/tool \
        cargo install --root "$tools" --locked --force --version "$version" cargo-mutants
fi
export PATH="$tools/bin:$PATH"
# Each build is used for only one run of the tests.
export CARGO_PROFILE_DEV_OPT_LEVEL=${CARGO_PROFILE_DEV_OPT_LEVEL:-1}
export CARGO_PROFILE_DEV_DEBUG=false
export CARGO_INCREMENTAL=1

exec "$python" tools/mutants.py "$cache/mutants"
