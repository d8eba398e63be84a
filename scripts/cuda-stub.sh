#!/bin/sh
# Usage: scripts/cuda-stub.sh DIR   (after `cargo fetch`)
# Makes a stand-in CUDA home: an nvcc that compiles nothing and libraries whose every function fails (the
# driver's with CUDA_ERROR_NO_DEVICE). Enough to check, lint, link and run `--features cuda` without a GPU.
set -eu
home=$1; mkdir -p "$home/bin" "$home/lib64"
cat > "$home/bin/nvcc" <<'NVCC'
#!/bin/sh
out= dir= srcs=
while [ $# -gt 0 ]; do
  case "$1" in
    --version) printf 'nvcc: stand-in\n\n\nCuda compilation tools, release 13.0, V13.0.0\n'; exit ;;
    -o) out=$2; shift ;;
    --output-directory) dir=$2; shift ;;
    *.cu) srcs="$srcs $1" ;;
  esac
  shift
done
if [ -n "$out" ]; then : > "$out"; fi
if [ -n "$dir" ]; then for s in $srcs; do s=${s##*/}; : > "$dir/${s%.cu}.ptx"; done; fi
NVCC
chmod +x "$home/bin/nvcc"
sys=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -maxdepth 2 -name 'cudarc-0.19.*' | sort -V | tail -1)/src
lib() { # name soname module status: an error that the library's own status type has
  {
    grep -ohE 'pub unsafe fn (cu|nvrtc|curand)[A-Za-z0-9_]+' "$sys/$3/sys/mod.rs" | awk '{print $4}' | sort -u |
      grep -vxE 'culib|cuGetErrorString|cuGetErrorName' | sed "s/.*/int &(void) { return $4; }/"
    if [ "$1" = cuda ]; then
      echo 'int cuGetErrorString(int e, const char **s) { *s = "no CUDA-capable device is detected"; return 0; }'
      echo 'int cuGetErrorName(int e, const char **s) { *s = "CUDA_ERROR_NO_DEVICE"; return 0; }'
    fi
  } | cc -shared -fPIC -w -x c -Wl,-soname,"$2" -o "$home/lib64/$2" -
  ln -sf "$2" "$home/lib64/lib$1.so"
}
lib cuda libcuda.so.1 driver 100
lib nvrtc libnvrtc.so.13 nvrtc 2
lib curand libcurand.so.10 curand 203
lib cublas libcublas.so.13 cublas 1
lib cublasLt libcublasLt.so.13 cublaslt 1
lib cudart libcudart.so.13 runtime 100
