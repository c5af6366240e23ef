#!/usr/bin/env bash
# Runs the damage tests; TINYGATE_DAMAGE sets how many. Called by `make damage`. Needs no libtorch.
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

run_cargo test --package tinygate --no-default-features --test damage
