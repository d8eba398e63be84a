// One kernel source for nvcc, NVRTC and an ordinary C++17 compiler.
//
// Kernels include this file and nothing of CUDA's. On the GPU compilers it brings in CUDA's own headers and a few macros;
// elsewhere it supplies CUDA's names on top of the emulator. This is the only file with a branch on __CUDACC__.
//
//   TWIN_SHARED(float, tile, [32][33]);   shared memory of a size known at compile time
//   TWIN_DYN_SHARED(float, buffer);       shared memory of the size given at launch
#pragma once
#ifdef __CUDACC__
#include "twin/device.cuh"
#else
#include "twin/host.cuh"
#endif
