// Reductions over a block of 32 to 1024 threads, a multiple of 32, in an order that depends on the block size alone.
#pragma once
#include "twin.cuh"

// `join` of all threads' values, in thread 0. `part` has a T for each warp; call it once between two barriers.
template <typename T, typename Join>
__device__ __forceinline__ T block_reduce(T value, Join join, T* part) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int d = 16; d > 0; d >>= 1) value = join(value, value.down(d));
  if (lane == 0) part[warp] = value;
  __syncthreads();  // part is complete
  if (warp == 0) {
    value = lane < warps ? part[lane] : T::nothing();
    for (int d = 16; d > 0; d >>= 1) value = join(value, value.down(d));
  }
  return value;
}
