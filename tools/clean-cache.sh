#!/usr/bin/env bash
# Removes what tinygate keeps in its cache: libtorch, wheels, the interop environment, builds.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$("${TINYGATE_PYTHON:-python3}" "$root/tools/libtorch.py" --print-cache)

if [ ! -e "$cache" ]; then
    echo "nothing to remove: there is no $cache"
    exit 0
fi
# TINYGATE_CACHE may name any folder, so only what bears our tag is touched, and of it only what we made.
if ! grep -qs 'made by tinygate' "$cache/CACHEDIR.TAG"; then
    printf 'error: %s does not look like a cache of tinygate (no CACHEDIR.TAG of ours in it)\nhint: remove it by hand if you are sure\n' "$cache" >&2
    exit 2
fi
rm -rf "$cache"/libtorch-* "$cache"/wheels "$cache"/pip "$cache"/interop-venv "$cache"/interop-tmp "$cache"/target \
    "$cache"/mutants "$cache"/mutants-tools "$cache"/libtorch.lock "$cache"/interop.lock "$cache"/CACHEDIR.TAG
rmdir "$cache" 2>/dev/null || true
echo "removed what tinygate kept in $cache"
