// Row operations: RMS norm and soft-max. One block for each row at a time, grid-stride over rows; f32 arithmetic.
//
// Cost, for `cols` elements of e bytes: rms_norm reads a row twice and the weights once, writes it once (4e bytes and
// 4 flops an element); softmax reads it three times and writes it once (4e bytes, 2 exponentials an element).
#include "twin.cuh"

struct Sum {
  static constexpr float nothing = 0.0f;
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
  static constexpr float nothing = -3.402823466e38f;
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Over a block of up to 1024 threads, a multiple of 32; every thread gets the result. `part` has a float for each warp.
template <typename Op>
__device__ __forceinline__ float block_reduce(float v, Op op, float* part) {
  const int lane = threadIdx.x % warpSize, warp = threadIdx.x / warpSize, warps = blockDim.x / warpSize;
  for (int d = 16; d > 0; d >>= 1) v = op(v, __shfl_xor_sync(0xffffffffu, v, d));
  if (lane == 0) part[warp] = v;
  __syncthreads();  // part is complete
  v = lane < warps ? part[lane] : Op::nothing;
  for (int d = 16; d > 0; d >>= 1) v = op(v, __shfl_xor_sync(0xffffffffu, v, d));
  __syncthreads();  // part may be written again
  return v;
}

// y = x / sqrt(mean(x^2) + eps) * w for each row.
template <typename T>
__device__ __forceinline__ void rms_norm(const T* x, const T* w, T* y, int rows, int cols, float eps) {
  TWIN_SHARED(float, part, [32]);
  for (int r = blockIdx.x; r < rows; r += gridDim.x) {
    const T* const row = x + size_t(r) * cols;
    float squares = 0.0f;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) squares += float(row[c]) * float(row[c]);
    const float scale = rsqrtf(block_reduce(squares, Sum(), part) / float(cols) + eps);
    for (int c = threadIdx.x; c < cols; c += blockDim.x) y[size_t(r) * cols + c] = T(float(row[c]) * scale * float(w[c]));
  }
}

// y = exp(x - max) / sum(exp(x - max)) for each row; -inf gives 0.
template <typename T>
__device__ __forceinline__ void softmax(const T* x, T* y, int rows, int cols) {
  TWIN_SHARED(float, part, [32]);
  for (int r = blockIdx.x; r < rows; r += gridDim.x) {
    const T* const row = x + size_t(r) * cols;
    float top = -INFINITY, sum = 0.0f;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) top = fmaxf(top, float(row[c]));
    top = block_reduce(top, Max(), part);
    for (int c = threadIdx.x; c < cols; c += blockDim.x) sum += expf(float(row[c]) - top);
    sum = block_reduce(sum, Sum(), part);
    for (int c = threadIdx.x; c < cols; c += blockDim.x) y[size_t(r) * cols + c] = T(expf(float(row[c]) - top) / sum);
  }
}

#define ROW_OPS(suffix, T)                                                                              \
  extern "C" __global__ void __launch_bounds__(1024)                                                    \
      rms_norm_##suffix(const T* x, const T* w, T* y, int rows, int cols, float eps) {                  \
    rms_norm(x, w, y, rows, cols, eps);                                                                 \
  }                                                                                                     \
  extern "C" __global__ void __launch_bounds__(1024) softmax_##suffix(const T* x, T* y, int rows, int cols) { \
    softmax(x, y, rows, cols);                                                                          \
  }
ROW_OPS(f32, float)
ROW_OPS(bf16, __nv_bfloat16)
ROW_OPS(f16, __half)
