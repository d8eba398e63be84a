// out[0] = sum(x) in one launch: each block leaves a partial sum, the last block to finish adds them up in a fixed order,
// so the result does not depend on which block that is. `finished` is one counter, 0 before and after the launch.
#include "twin.cuh"

// The sum of the block's values in thread 0; the block size is a power of two, `buffer` has a float for each thread.
__device__ __forceinline__ float tree(float v, float* buffer) {
  const int t = threadIdx.x;
  buffer[t] = v;
  __syncthreads();  // buffer is filled
  for (int d = blockDim.x / 2; d > 0; d >>= 1) {
    if (t < d) buffer[t] += buffer[t + d];
    __syncthreads();  // this level is done
  }
  return buffer[0];
}

extern "C" __global__ void __launch_bounds__(1024)
    sum_f32(const float* x, float* partial, float* out, unsigned* finished, int n) {
  TWIN_DYN_SHARED(float, buffer);
  TWIN_SHARED(unsigned, last, [1]);
  float v = 0.0f;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
  v = tree(v, buffer);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = v;
    __threadfence();  // the partial sum is seen by whoever sees the count
    last[0] = atomicInc(finished, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();  // all know whether this is the last block; and buffer may be written again
  if (!last[0]) return;
  v = 0.0f;
  for (int b = threadIdx.x; b < int(gridDim.x); b += blockDim.x) v += partial[b];
  v = tree(v, buffer);
  if (threadIdx.x == 0) out[0] = v;
}
