#!/usr/bin/env bash
# Breaks the store and the machine in small ways and wants the tests to notice. Called by `make mutants`.
#   MUTANTS=60    how many of cargo-mutants' mutants, or `all`
#   SEED=0        the order they are taken in; store and machine take turns
#   FROM=0        how many of that order are left out
#   HAND=all      how many of the hand-made ones of tests/mutants, or `all`; from FROM on, over and over
# All of it happens in a copy of the tree, in the cache.
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

version=27.1.0
tools=$cache/mutants-tools
export CARGO_TARGET_DIR=$CARGO_TARGET_DIR/mutants
# As in tools/replay-alone.sh: no libtorch is needed, so none is in reach.
export LIBTORCH=$root/there-is-no-libtorch-here
unset LIBTORCH_USE_PYTORCH LIBTORCH_LIB LIBTORCH_INCLUDE

if ! found=$("$tools/bin/cargo-mutants" mutants --version 2>/dev/null) || [ "$found" != "cargo-mutants $version" ]; then
    echo "mutants: cargo-mutants $version is built into $tools"
    CARGO_TARGET_DIR=$CARGO_TARGET_DIR/tool \
        cargo install --root "$tools" --locked --force --version "$version" cargo-mutants
fi
export PATH="$tools/bin:$PATH"
# What is built is thrown away after one run of the tests.
export CARGO_PROFILE_DEV_OPT_LEVEL=${CARGO_PROFILE_DEV_OPT_LEVEL:-1}
export CARGO_PROFILE_DEV_DEBUG=false
export CARGO_INCREMENTAL=1

exec "$python" tools/mutants.py "$cache/mutants"
