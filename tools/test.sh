#!/usr/bin/env bash
# Runs every test of the workspace. Called by `make test` in the environment of tools/with-libtorch.
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

# In a build of the whole workspace, doc tests and tests of packages that use libtorch only through the engine link
# libtorch too, but cargo does not give them an rpath.
case $(uname) in
    Darwin) export DYLD_LIBRARY_PATH="$TINYGATE_LIBTORCH/lib${DYLD_LIBRARY_PATH:+:$DYLD_LIBRARY_PATH}" ;;
    *) export LD_LIBRARY_PATH="$TINYGATE_LIBTORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ;;
esac
run_cargo test --workspace
