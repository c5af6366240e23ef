#!/usr/bin/env bash
# Formats the workspace; with --check, only lists what is not formatted. Needs no libtorch.
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec cargo fmt --all "$@"
