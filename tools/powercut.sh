#!/usr/bin/env bash
# Simulates power cuts while a log is written: the writer is killed at a random moment, and the image of its block device
# is copied at once, so the copy has only what the device had received. The copy is mounted, and the log is opened as
# resuming would. Nothing that was acknowledged may be missing or changed.
#   powercut.sh RUNS [SEED]
# Needs root for loop mounts. If that is not possible, prints that it was skipped and exits with 77.
set -euo pipefail
# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

runs=${1:-100}
seed=${2:-$(date +%s)}
echo "seed $seed"
RANDOM=$seed
skip() {
    echo "skipped: $1"
    exit 77
}
[ "$(uname)" = Linux ] || skip "loop mounts need Linux"
[ "$(id -u)" = 0 ] || skip "loop mounts need root"
command -v mkfs.ext4 >/dev/null || skip "there is no mkfs.ext4"

run_cargo build --package tinygate-testing --bin powercut
powercut=$CARGO_TARGET_DIR/debug/powercut

base=$(mktemp -d)
live=$base/live after=$base/after ram=$base/ram
cleanup() {
    for folder in "$live" "$after" "$ram"; do
        if mountpoint -q "$folder"; then umount "$folder"; fi
    done
    rm -rf "$base"
}
trap cleanup EXIT
mkdir "$live" "$after" "$ram"
mount -t tmpfs -o size=600m tmpfs "$ram" 2>/dev/null || skip "mounting is not allowed"

# Prints the outcome of one power cut. Returns 1 if something was lost, 2 if nothing had been acknowledged yet.
cut_once() {
    local pid acknowledged output
    rm -f "$ram"/*
    truncate -s 192M "$ram/live.img"
    mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$ram/live.img"
    mount -o loop,noatime "$ram/live.img" "$live" 2>/dev/null || skip "there is no loop device"
    "$powercut" write "$live/run" >"$ram/acknowledged" 2>"$ram/errors" &
    pid=$!
    sleep "$(awk -v random="$RANDOM" 'BEGIN { printf "%.3f", 0.1 + (random % 2000) / 1000 }')"
    kill -KILL "$pid" 2>/dev/null || true
    cp --sparse=always "$ram/live.img" "$ram/after.img"
    wait "$pid" 2>/dev/null || true
    umount "$live"
    acknowledged=$(grep -E '^[0-9]+$' "$ram/acknowledged" | tail -n 1)
    [ -n "$acknowledged" ] || return 2
    mount -o loop,noatime "$ram/after.img" "$after" || { echo "event $acknowledged: the image does not mount"; return 1; }
    output=$(timeout 120 "$powercut" verify "$after/run" "$acknowledged" 2>&1) && status=0 || status=1
    umount "$after"
    echo "up to event $acknowledged acknowledged: $output"
    return "$status"
}

intact=0 done=0 tries=0
while [ "$done" -lt "$runs" ]; do
    tries=$((tries + 1))
    [ "$tries" -le $((runs * 3 + 10)) ] || fail "the writer acknowledges nothing" "see: $powercut write DIR"
    status=0
    line=$(cut_once) || status=$?
    case $status in
        0) intact=$((intact + 1)) ;;
        1) line="LOST: $line" ;;
        77) echo "$line"; exit 77 ;;
        *) continue ;;
    esac
    done=$((done + 1))
    echo "cut $done: $line"
done
echo "$intact of $runs power cuts lost nothing that was acknowledged"
[ "$intact" = "$runs" ]
