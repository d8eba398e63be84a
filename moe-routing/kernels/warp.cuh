// One warp for one row: reductions over its 32 lanes, in an order that depends on nothing.
#pragma once
#include "twin.cuh"

constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float v) {
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(ALL_LANES, v, d);
  return v;
}

__device__ __forceinline__ float warp_max(float v) {
  for (int d = 16; d > 0; d >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, d));
  return v;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// max and sum exp(s - max) over a row; lane l takes experts l, l + 32, ...
struct ExpSum {
  float top, sum;
};
__device__ __forceinline__ ExpSum exp_sum(const float* row, int experts) {
  const int lane = threadIdx.x % 32;
  float top = -INFINITY, sum = 0.0f;
  for (int e = lane; e < experts; e += 32) top = fmaxf(top, row[e]);
  top = warp_max(top);
  for (int e = lane; e < experts; e += 32) sum += expf(row[e] - top);
  return {top, warp_sum(sum)};
}

// What a row's status says; kernels/status.rs reads it. 0 is good.
//   1 + 2 e (NaN) or 2 + 2 e (+inf): the first logit that is no logit
//   -1 - n: n experts are enabled, too few
//   INT_MIN: ids out of range or repeated
constexpr int BAD_IDS = -2147483647 - 1;

__device__ __forceinline__ int bad_logit(const float* row, int experts) {
  unsigned first = ALL_LANES;
  for (int e = threadIdx.x % 32; e < experts && first == ALL_LANES; e += 32) {
    if (!(row[e] < INFINITY)) first = unsigned(e);
  }
  first = __reduce_min_sync(ALL_LANES, first);
  return first == ALL_LANES ? 0 : 1 + 2 * int(first) + (row[first] == INFINITY ? 1 : 0);
}
