#!/usr/bin/env bash
# Checks that the real PyTorch can read tinygate's files, and the other way round, and tests the Python package with it.
# Called by `make interop` in the environment of tools/with-libtorch.
#   TINYGATE_INTEROP_RUN   another run directory, whose checkpoints are read as well
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

interop_python=$("$python" tools/interop_env.py)
run_cargo build --package tinygate --example torch_file --example frames
run_cargo build --package tinygate-cli
export PYTHONDONTWRITEBYTECODE=1

"$interop_python" -m unittest discover --start-directory python/tests

"$interop_python" tests/interop/data_files.py --reader "$CARGO_TARGET_DIR/debug/examples/frames"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$interop_python" tests/interop/trained.py --tinygate "$CARGO_TARGET_DIR/debug/tinygate" \
    --data data/pong_frames.h5 --fixtures tests/fixtures --into "$scratch/trained"

"$interop_python" tests/interop/torchrun.py --tinygate "$CARGO_TARGET_DIR/debug/tinygate" \
    --config "$scratch/trained/short.toml" --data "$scratch/trained/frames.npy" --into "$scratch/torchrun"

checkpoints=()
for folder in tests/fixtures/tinyworlds_checkpoint/*_step_* "$scratch"/trained/run/*/checkpoints/*_step_* ${TINYGATE_INTEROP_RUN:+"$TINYGATE_INTEROP_RUN"/*/checkpoints/*_step_*}; do
    [ -e "$folder/model_state_dict.pt" ] || fail "there is no checkpoint in $folder" \
        "the checkout is incomplete (see git status), or TINYGATE_INTEROP_RUN is not a run directory with checkpoints"
    checkpoints+=(--checkpoint "$folder")
done
"$interop_python" tests/interop/torch_files.py --reader "$CARGO_TARGET_DIR/debug/examples/torch_file" "${checkpoints[@]}"

"$interop_python" tests/interop/checkpoint_files.py --tinygate "$CARGO_TARGET_DIR/debug/tinygate" \
    --fixtures tests/fixtures
