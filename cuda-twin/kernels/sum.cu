// out[0] = sum(x) in one launch: each block leaves a partial sum, the last block to finish adds them up in order, so the
// result does not depend on which block that is. `finished` is one counter, 0 before and after the launch.
#include "twin.cuh"

extern "C" __global__ void __launch_bounds__(256)
    sum_f32(const float* x, float* partial, float* out, unsigned* finished, int n) {
  TWIN_DYN_SHARED(float, buffer);  // one float for each thread; the block size is a power of two
  TWIN_SHARED(unsigned, last, [1]);
  const int t = threadIdx.x;
  float v = 0.0f;
  for (int i = blockIdx.x * blockDim.x + t; i < n; i += gridDim.x * blockDim.x) v += x[i];
  buffer[t] = v;
  __syncthreads();  // buffer is filled
  for (int d = blockDim.x / 2; d > 0; d >>= 1) {
    if (t < d) buffer[t] += buffer[t + d];
    __syncthreads();  // this level is done
  }
  if (t == 0) {
    partial[blockIdx.x] = buffer[0];
    __threadfence();  // the partial sum is seen by whoever sees the count
    last[0] = atomicInc(finished, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();  // all know whether this is the last block
  if (!last[0] || t != 0) return;
  __threadfence();  // the others' partial sums are seen from here on
  float sum = 0.0f;
  for (int b = 0; b < int(gridDim.x); b++) sum += partial[b];
  out[0] = sum;
}
