#!/usr/bin/env bash
# Builds the simulation without libtorch and runs it: tools/sim.sh --seeds 10000
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

run_cargo build --release --package tinygate-sim
exec "$CARGO_TARGET_DIR/release/sim" "$@"
