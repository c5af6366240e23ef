#!/usr/bin/env bash
# Runs the damage matrix, the share of TINYGATE_DAMAGE. Called by `make damage`; needs no libtorch.
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

run_cargo test --package tinygate --no-default-features --test damage
