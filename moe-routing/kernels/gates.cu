// The weights of given experts under the current logits, and the gradient. The choice is a constant, natural or replayed.
//
// One warp for each token. Sums over the chosen run by ascending id, so the order of the slots does not change a bit: each
// lane puts its slot's value at the rank of its id, and every lane adds them up in that order. Sums over all experts run by
// lane, then over lanes.
//
// gates           reads E logits (all are checked) and k ids, writes k gates: 4 E + 8 k bytes, k exponentials (E for the
//                 soft-max over all experts).
// gates_backward  reads the same and k gradients, writes E: 8 E + 8 k bytes.
#include "warp.cuh"

// How the chosen are weighed; kernels/router.rs gives the numbers.
enum Family { SOFTMAX_CHOSEN, SOFTMAX_ALL, SIGMOID_CHOSEN, SIGMOID_EACH };

__device__ __forceinline__ int rank_of(const unsigned* ids, int k, int slot) {
  int rank = 0;
  for (int j = 0; j < k; j++) rank += ids[j] < ids[slot];
  return rank;
}

__device__ __forceinline__ float sum_ranked(const float* ranked, int k, float from) {
  for (int i = 0; i < k; i++) from += ranked[i];
  return from;
}

// Gates before the family's scale into `gates` [k], where each lane finds its own slots; `ranked` [k] is scratch that other
// lanes may still read. The result is of the row, for the soft-max over all experts.
__device__ __forceinline__ ExpSum unscaled(const float* row, const unsigned* ids, int experts, int k, int family, float* gates,
                                           float* ranked) {
  const int lane = threadIdx.x % 32;
  ExpSum all = {-INFINITY, 0.0f};
  if (family == SOFTMAX_ALL) {
    all = exp_sum(row, experts);
  } else if (family == SOFTMAX_CHOSEN) {
    for (int s = lane; s < k; s += 32) all.top = fmaxf(all.top, row[ids[s]]);
    all.top = warp_max(all.top);
  }
  const bool exponential = family == SOFTMAX_ALL || family == SOFTMAX_CHOSEN;
  for (int s = lane; s < k; s += 32) {
    const float a = row[ids[s]], value = exponential ? expf(a - all.top) : sigmoid(a);
    gates[s] = value;
    ranked[rank_of(ids, k, s)] = value;
  }
  __syncwarp();  // ranked is complete
  float sum = all.sum;
  // DeepSeek-V3 adds 1e-20, so that gates which all underflow are 0 and not NaN.
  if (family == SOFTMAX_CHOSEN) sum = sum_ranked(ranked, k, 0.0f);
  if (family == SIGMOID_CHOSEN) sum = sum_ranked(ranked, k, 1e-20f);
  if (family == SIGMOID_EACH) sum = 1.0f;
  for (int s = lane; s < k; s += 32) gates[s] = gates[s] / sum;
  return all;
}

__device__ __forceinline__ int bad_choice(const float* row, const unsigned* ids, int experts, int k) {
  const int bad = bad_logit(row, experts);
  if (bad != 0) return bad;
  bool distinct = true, enabled = false;
  for (int s = threadIdx.x % 32; s < k; s += 32) {
    distinct = distinct && ids[s] < unsigned(experts);
    for (int j = 0; j < s; j++) distinct = distinct && ids[j] != ids[s];
    enabled = enabled || (distinct && row[ids[s]] > -INFINITY);
  }
  if (!__all_sync(ALL_LANES, distinct)) return BAD_IDS;
  return __any_sync(ALL_LANES, enabled) ? 0 : -1;
}

// logits [tokens, experts], ids [tokens, k], gates [tokens, k], status [tokens]; 2 k floats of shared memory for each warp.
// The gates of a row with a status are 0.
extern "C" __global__ void __launch_bounds__(128)
    gates_f32(const float* logits, const unsigned* ids, float* gates, int* status, int tokens, int experts, int k, int family,
              float scale) {
  TWIN_DYN_SHARED(float, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const size_t token = size_t(blockIdx.x) * (blockDim.x / 32) + warp;
  if (token >= size_t(tokens)) return;
  const float* const row = logits + token * experts;
  const unsigned* const chosen = ids + token * k;
  float* const mine = shared + size_t(warp) * 2 * k;
  const int bad = bad_choice(row, chosen, experts, k);
  if (bad == 0) unscaled(row, chosen, experts, k, family, mine, mine + k);
  for (int s = lane; s < k; s += 32) gates[token * k + s] = bad == 0 ? scale * mine[s] : 0.0f;
  if (lane == 0) status[token] = bad;
}

// d_gates [tokens, k] to d_logits [tokens, experts], all of which is written. For rows that gates_f32 took without a status.
extern "C" __global__ void __launch_bounds__(128)
    gates_backward_f32(const float* logits, const unsigned* ids, const float* d_gates, float* d_logits, int tokens, int experts,
                       int k, int family, float scale) {
  TWIN_DYN_SHARED(float, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const size_t token = size_t(blockIdx.x) * (blockDim.x / 32) + warp;
  if (token >= size_t(tokens)) return;
  const float* const row = logits + token * experts;
  const unsigned* const chosen = ids + token * k;
  const float* const d = d_gates + token * k;
  float* const d_row = d_logits + token * experts;
  float* const gates = shared + size_t(warp) * 2 * k;
  float* const ranked = gates + k;
  const ExpSum all = unscaled(row, chosen, experts, k, family, gates, ranked);
  __syncwarp();  // ranked may be written again
  for (int s = lane; s < k; s += 32) ranked[rank_of(chosen, k, s)] = gates[s] * d[s];
  __syncwarp();  // ranked is complete
  const float inner = family == SIGMOID_EACH ? 0.0f : sum_ranked(ranked, k, 0.0f);
  for (int e = lane; e < experts; e += 32) d_row[e] = family == SOFTMAX_ALL ? 0.0f - expf(row[e] - all.top) / all.sum * inner : 0.0f;
  __syncwarp();  // d_row has a value everywhere
  for (int s = lane; s < k; s += 32) {
    float* const out = d_row + chosen[s];
    if (family == SOFTMAX_ALL) *out += gates[s] * d[s];
    else if (family == SOFTMAX_CHOSEN) *out = gates[s] * (d[s] - inner);
    else *out = scale * gates[s] * (1.0f - sigmoid(row[chosen[s]])) * (d[s] - inner);
  }
}
