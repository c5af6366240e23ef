#!/usr/bin/env bash
# Removes libtorch, wheels, the interop environment and builds from tinygate's cache.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$("${TINYGATE_PYTHON:-python3}" "$root/tools/libtorch.py" --print-cache)

if [ ! -e "$cache" ]; then
    echo "nothing to remove: there is no $cache"
    exit 0
fi
# TINYGATE_CACHE can be any folder, so only a folder with our tag is touched, and only our files in it are removed.
if ! grep -qs 'made by tinygate' "$cache/CACHEDIR.TAG"; then
    printf 'error: %s does not look like a cache of tinygate (it does not contain its CACHEDIR.TAG)\nhint: remove it by hand if you are sure\n' "$cache" >&2
    exit 2
fi
rm -rf "$cache"/libtorch-* "$cache"/wheels "$cache"/pip "$cache"/interop-venv "$cache"/interop-tmp "$cache"/target \
    "$cache"/mutants "$cache"/mutants-tools "$cache"/libtorch.lock "$cache"/interop.lock "$cache"/CACHEDIR.TAG
rmdir "$cache" 2>/dev/null || true
echo "removed tinygate's files from $cache"
