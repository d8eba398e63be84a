// Router losses with their gradients to the logits: load balance and z-loss.
//
// One warp for each token: E logits are read and E gradients written (8 E bytes; 2 E exponentials, 3 E for sigmoid routers,
// another E logarithms). The tokens' parts of the loss are added up by loss_sum_f32, one block, in an order that depends on
// their number alone.
#include "warp.cuh"

__device__ __forceinline__ int bad_row(const float* row, int experts) {
  const int bad = bad_logit(row, experts);
  if (bad != 0) return bad;
  bool enabled = false;
  for (int e = threadIdx.x % 32; e < experts; e += 32) enabled = enabled || row[e] > -INFINITY;
  return __any_sync(ALL_LANES, enabled) ? 0 : -1;
}

// The score of which the probabilities are the soft-max: s, or log sigmoid(s), which no sigmoid underflows.
__device__ __forceinline__ float score(float s, int is_sigmoid) {
  return is_sigmoid ? fminf(s, 0.0f) - logf(1.0f + expf(-fabsf(s))) : s;
}

// shares [experts] are the experts' shares of all pairs, times what the loss is at balance; factor is experts / tokens.
// parts and status [tokens], gradient [tokens, experts]. A row with a status gives 0.
extern "C" __global__ void __launch_bounds__(128)
    load_balance_f32(const float* logits, const float* shares, float* parts, float* gradient, int* status, int tokens, int experts,
                     int is_sigmoid, float factor) {
  const int lane = threadIdx.x % 32;
  const size_t token = size_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (token >= size_t(tokens)) return;
  const float* const row = logits + token * experts;
  float* const d_row = gradient + token * experts;
  const int bad = bad_row(row, experts);
  float top = -INFINITY, sum = 0.0f, inner = 0.0f;
  for (int e = lane; e < experts; e += 32) top = fmaxf(top, score(row[e], is_sigmoid));
  top = warp_max(top);
  for (int e = lane; e < experts; e += 32) {
    const float p = expf(score(row[e], is_sigmoid) - top);
    sum += p;
    inner += p * shares[e];
  }
  sum = warp_sum(sum);
  inner = warp_sum(inner) / sum;
  for (int e = lane; e < experts; e += 32) {
    // For p = sigmoid / sum of sigmoids, d log sigmoid / ds = 1 - sigmoid.
    const float s = row[e], p = expf(score(s, is_sigmoid) - top) / sum, slope = is_sigmoid ? 1.0f - sigmoid(s) : 1.0f;
    d_row[e] = bad == 0 ? factor * p * slope * (shares[e] - inner) : 0.0f;
  }
  if (lane == 0) parts[token] = bad == 0 ? factor * inner : 0.0f, status[token] = bad;
}

// (log sum exp)^2 of each row times factor, 1 / tokens.
extern "C" __global__ void __launch_bounds__(128)
    z_loss_f32(const float* logits, float* parts, float* gradient, int* status, int tokens, int experts, float factor) {
  const int lane = threadIdx.x % 32;
  const size_t token = size_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (token >= size_t(tokens)) return;
  const float* const row = logits + token * experts;
  float* const d_row = gradient + token * experts;
  const int bad = bad_row(row, experts);
  const ExpSum all = exp_sum(row, experts);
  const float lse = all.top + logf(all.sum);
  for (int e = lane; e < experts; e += 32) d_row[e] = bad == 0 ? 2.0f * factor * lse * expf(row[e] - lse) : 0.0f;
  if (lane == 0) parts[token] = bad == 0 ? factor * lse * lse : 0.0f, status[token] = bad;
}

// sum[0] = the sum of parts [n]; one block of 256 threads.
extern "C" __global__ void __launch_bounds__(256) loss_sum_f32(const float* parts, float* sum, int n) {
  TWIN_SHARED(float, part, [8]);
  float mine = 0.0f;
  for (int i = threadIdx.x; i < n; i += 256) mine += parts[i];
  mine = warp_sum(mine);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = mine;
  __syncthreads();  // part is complete
  if (threadIdx.x == 0) {
    float all = 0.0f;
    for (int w = 0; w < 8; w++) all += part[w];
    sum[0] = all;
  }
}
