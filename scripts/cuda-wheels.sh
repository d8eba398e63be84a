#!/bin/sh
# Usage: scripts/cuda-wheels.sh VENV DIR [EXTRA...]   EXTRA: curand cublas (to link candle's cuda feature)
# Installs NVIDIA's compilers from PyPI and lays them out as a CUDA home.
set -eu
venv=$1; home=$2; shift 2
extras=nvcc,nvvm,crt,cudart,cccl,nvrtc; for e in "$@"; do extras=$extras,$e; done
[ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
"$venv/bin/pip" install -q "cuda-toolkit[$extras]==13.0.2"
cu=$("$venv/bin/python" -c 'import nvidia; print(list(nvidia.__path__)[0])')/cu13
mkdir -p "$home/lib64"; for d in bin include nvvm; do ln -sfn "$cu/$d" "$home/$d"; done
for f in "$cu"/lib/*.so.* "$cu"/lib/*.a; do
  b=${f##*/}; ln -sf "$f" "$home/lib64/$b"
  case $b in *.alt.*) ;; *.so.*) ln -sf "$b" "$home/lib64/${b%%.so.*}.so" ;; esac
done
