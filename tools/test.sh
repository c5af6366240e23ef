#!/usr/bin/env bash
# Runs every test of the workspace. Called by `make test` in the environment of tools/with-libtorch.
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

# Built with the whole workspace, the doc tests and the tests of packages that use libtorch only through the engine link
# it too, but cargo hands an rpath on to neither.
case $(uname) in
    Darwin) export DYLD_LIBRARY_PATH="$TINYGATE_LIBTORCH/lib${DYLD_LIBRARY_PATH:+:$DYLD_LIBRARY_PATH}" ;;
    *) export LD_LIBRARY_PATH="$TINYGATE_LIBTORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ;;
esac
run_cargo test --workspace
