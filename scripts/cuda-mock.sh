#!/bin/sh
# Usage: scripts/cuda-mock.sh DIR   (after `cargo fetch`)
# Makes libraries that take the place of CUDA's at run time: a driver with one device and an NVRTC, both over the emulator
# of cuda-twin, and cuBLAS and cuRAND that say yes and compute nothing. With DIR first in LD_LIBRARY_PATH, a program built
# against the home of cuda-stub.sh runs its own kernels, checked, on the CPU.
set -eu
cd "$(dirname "$0")/.."
dir=$1; mkdir -p "$dir"
cargo build --quiet -p cuda-mock
archive=${CARGO_TARGET_DIR:-target}/debug/libcuda_mock.a
sys=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -maxdepth 2 -name 'cudarc-0.19.*' | sort -V | tail -1)/src
stubs() { # module: every function of the library as a weak one that returns 0
  grep -ohE 'pub unsafe fn (cu|nvrtc|curand)[A-Za-z0-9_]+' "$sys/$1/sys/mod.rs" | awk '{print $4}' | sort -u |
    grep -vx culib | sed 's/.*/__attribute__((weak)) int &(void) { return 0; }/'
}
# One library holds driver and compiler, so that they share what the archive defines.
{
  stubs driver | grep -vE 'cuGetError(String|Name)\('
  stubs nvrtc
  echo 'int cuGetErrorString(int e, const char **s) { *s = "see standard error (cuda-mock)"; return 0; }'
  echo 'int cuGetErrorName(int e, const char **s) { *s = "CUDA_ERROR"; return 0; }'
} | cc -c -fPIC -w -x c -o "$dir/stubs.o" -
echo '{ global: cu*; nvrtc*; local: *; };' > "$dir/exports"
c++ -shared -o "$dir/libcuda.so.1" -Wl,-soname,libcuda.so.1 -Wl,--version-script,"$dir/exports" \
  "$dir/stubs.o" -Wl,--whole-archive "$archive" -Wl,--no-whole-archive -lpthread -ldl -lm
# NVRTC's functions are in the driver's library, which this one brings with it.
echo '' | cc -shared -fPIC -x c -Wl,-soname,libnvrtc.so.13 -Wl,--no-as-needed -o "$dir/libnvrtc.so.13" - \
  -L"$dir" -l:libcuda.so.1
for lib in curand:libcurand.so.10:curand cublas:libcublas.so.13:cublas cublasLt:libcublasLt.so.13:cublaslt cudart:libcudart.so.13:runtime; do
  name=${lib#*:}
  stubs "${lib##*:}" | cc -shared -fPIC -w -x c -Wl,-soname,"${name%:*}" -o "$dir/${name%:*}" -
done
