// c = a b, row-major, f32: [m, k] x [k, n]. 16 x 16 threads, each one element, through tiles in shared memory; every
// element of a and b is read from global memory once for each tile of the other: 2 m n k flops, 8 m n k / 16 bytes.
#include "twin.cuh"

constexpr int TILE = 16;

extern "C" __global__ void __launch_bounds__(256) gemm_f32(const float* a, const float* b, float* c, int m, int n, int k) {
  TWIN_SHARED(float, left, [TILE][TILE]);
  TWIN_SHARED(float, right, [TILE][TILE + 1]);
  const int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * TILE + y, column = blockIdx.x * TILE + x;
  float sum = 0.0f;
  for (int first = 0; first < k; first += TILE) {
    left[y][x] = row < m && first + x < k ? a[size_t(row) * k + first + x] : 0.0f;
    right[y][x] = column < n && first + y < k ? b[size_t(first + y) * n + column] : 0.0f;
    __syncthreads();  // both tiles are filled
    for (int i = 0; i < TILE; i++) sum += left[y][i] * right[i][x];
    __syncthreads();  // both may be filled again
  }
  if (row < m && column < n) c[size_t(row) * n + column] = sum;
}

// The same product for bf16 on tensor cores: one warp for each 16 x 8 tile of c; m, n and k are multiples of 16, 8 and 16.
extern "C" __global__ void __launch_bounds__(32)
    gemm_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int n, int k) {
  const int group = threadIdx.x / 4, pair = threadIdx.x % 4 * 2, row = blockIdx.y * 16 + group, column = blockIdx.x * 8;
  const auto two = [](__nv_bfloat16 low, __nv_bfloat16 high) {
    return unsigned(__bfloat16_as_ushort(low)) | unsigned(__bfloat16_as_ushort(high)) << 16;
  };
  const auto left = [&](int r, int i) { return two(a[size_t(r) * k + i], a[size_t(r) * k + i + 1]); };
  const auto right = [&](int i) {
    return two(b[size_t(i) * n + column + group], b[size_t(i + 1) * n + column + group]);
  };
  twin::FragmentC sum = {{0.0f, 0.0f, 0.0f, 0.0f}};
  for (int i = pair; i < k; i += 16) {
    const twin::FragmentA fa = {{left(row, i), left(row + 8, i), left(row, i + 8), left(row + 8, i + 8)}};
    const twin::FragmentB fb = {{right(i), right(i + 8)}};
    sum = twin::mma_m16n8k16_bf16(fa, fb, sum);
  }
  for (int i = 0; i < 4; i++) c[size_t(row + i / 2 * 8) * n + column + pair + i % 2] = sum.r[i];
}
