#!/usr/bin/env bash
# Trains the three stages on the shipped Pong frames, then recomputes every decision from the log. Called by `make demo`
# in the environment of tools/with-libtorch. Exits with 0 only if the run finished and the replay agreed.
#   TINYGATE_DEMO_DIR   run directory (default: the first free runs/demo-N)
#   TINYGATE_DEMO_CONFIG   another config (default: examples/pong-demo.toml)
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

run_cargo build --package tinygate-cli
tinygate=$CARGO_TARGET_DIR/debug/tinygate
config=${TINYGATE_DEMO_CONFIG:-examples/pong-demo.toml}

dir=${TINYGATE_DEMO_DIR:-}
if [ -z "$dir" ]; then
    mkdir -p runs
    number=1
    # mkdir reserves the number, so two concurrent demos get different ones.
    while ! mkdir "runs/demo-$number" 2>/dev/null; do
        number=$((number + 1))
        [ "$number" -le 9999 ] || fail "cannot create a run directory in $root/runs" "make the folder writable, or set TINYGATE_DEMO_DIR"
    done
    dir=runs/demo-$number
fi

# Ctrl-C stops the program with a checkpoint; this script keeps running to say how to resume.
trap : INT

say() {
    printf '\n== %s\n' "$*" >&2
}

say "tinygate run $config --dir $dir"
status=0
"$tinygate" run "$config" --dir "$dir" || status=$?
case $status in
    0) ;;
    1) say "a gate stopped the run; why: $tinygate explain $dir" ;;
    130) say "interrupted; resume with: $tinygate resume $dir" ;;
    *) say "the run ended with exit code $status" ;;
esac
[ "$status" -eq 0 ] || exit "$status"

say "tinygate replay $dir"
"$tinygate" replay "$dir" || status=$?
[ "$status" -eq 0 ] || { say "the replay does not agree (exit code $status)"; exit "$status"; }

say "done: $dir has the log, the checkpoints and the pictures"
printf '   %s\n' "$tinygate status $dir" "$tinygate explain $dir" "$tinygate log $dir" >&2
