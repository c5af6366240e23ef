# shellcheck shell=bash
# Sourced by the other scripts: changes to the repository's root, checks cargo, and sets the target folder.
# Sets: root, cache, CARGO_TARGET_DIR, CARGO_BUILD_JOBS (from TINYGATE_JOBS).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit

# Prints an error with a hint, and exits.
fail() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 2
}

# Runs cargo with the arguments in CARGO_ARGS, which are split at spaces.
run_cargo() {
    # shellcheck disable=SC2086
    cargo "$@" ${CARGO_ARGS:-}
}

# After a fresh install of rustup, the shell does not have cargo in its PATH yet.
if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
fi
rust_wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
command -v cargo >/dev/null || fail "there is no cargo" "install Rust $rust_wanted or newer: https://rustup.rs"
rust_found=$(cargo --version | sed -n 's/^cargo \([0-9]*\.[0-9]*\).*/\1/p')
if ! awk -v found="$rust_found" -v wanted="$rust_wanted" 'BEGIN {
    split(found, f, "."); split(wanted, w, ".")
    exit !(f[1] > w[1] || (f[1] == w[1] && f[2] >= w[2]))
}'; then
    fail "cargo is version ${rust_found:-unknown}; tinygate needs $rust_wanted or newer" "rustup update stable"
fi

python=${TINYGATE_PYTHON:-python3}
command -v "$python" >/dev/null || fail "there is no $python" \
    "install Python 3.9 or newer with pip (Debian, Ubuntu: apt install python3 python3-pip), or set TINYGATE_PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
    fail "$python is older than 3.9" "install a newer Python, or set TINYGATE_PYTHON"

cache=$("$python" tools/libtorch.py --print-cache)
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
# A relative path is relative to the current folder, which is the root.
case $CARGO_TARGET_DIR in /*) ;; *) CARGO_TARGET_DIR=$root/$CARGO_TARGET_DIR ;; esac
if [ -n "${TINYGATE_JOBS:-}" ]; then
    export CARGO_BUILD_JOBS=$TINYGATE_JOBS
fi
# Do not pass make's job slots to cargo, which has its own.
unset MAKEFLAGS MFLAGS
