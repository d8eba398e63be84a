// Which experts a token goes to: the k largest selection scores of each row of logits, best first, equals by lower id.
//
// One warp for each token. Lane l owns experts l, l + 32, ... and keeps the best that it has left; of the k passes each takes
// the best of 32 lanes in 5 exchanges, and only the lane that lost its best looks again. E logits are read once (4 E bytes),
// 4 k + 4 bytes are written; the passes work in shared memory.
//
// Scores compare exactly as on the CPU: logits stand for every score that rises with them. With groups the row first loses
// all groups but the best `keep`; a group scores the sum of its k / keep best terms.
#include "warp.cuh"

struct Best {
  float score;
  int id;
};

// The larger score; of equals the lower id.
__device__ __forceinline__ Best better(Best a, Best b) {
  return b.score > a.score || (b.score == a.score && b.id < a.id) ? b : a;
}

// The best of scores[lane], scores[lane + 32], ...
__device__ __forceinline__ Best lane_best(const float* scores, int n) {
  Best best = {-INFINITY, 2147483647};
  for (int i = threadIdx.x % 32; i < n; i += 32) best = better(best, {scores[i], i});
  return best;
}

__device__ __forceinline__ Best warp_best(Best best) {
  for (int d = 16; d > 0; d >>= 1) {
    best = better(best, {__shfl_xor_sync(ALL_LANES, best.score, d), __shfl_xor_sync(ALL_LANES, best.id, d)});
  }
  return best;
}

// What a group adds up: the scores themselves, exp(s - max), or the sigmoid.
enum Terms { SCORES, EXPONENTIALS, SIGMOIDS };

// Sets the scores of all groups but the best `keep` to -inf. `terms` [experts], `sums` and `kept` [groups] are scratch.
__device__ __forceinline__ void limit_groups(float* scores, const float* row, float* terms, float* sums, float* kept, int experts,
                                             int best, int groups, int keep, int kind) {
  const int lane = threadIdx.x % 32, size = experts / groups;
  const float top = kind == EXPONENTIALS ? exp_sum(row, experts).top : 0.0f;
  for (int e = lane; e < experts; e += 32) {
    const float s = row[e];
    terms[e] = kind == EXPONENTIALS ? expf(s - top) : kind == SIGMOIDS && s > -INFINITY ? sigmoid(s) : scores[e];
  }
  __syncwarp();  // terms are complete
  for (int g = 0; g < groups; g++) {
    float* const group = terms + g * size;
    float sum = 0.0f;
    for (int n = 0; n < best; n++) {
      const Best taken = warp_best(lane_best(group, size));
      sum += taken.score;
      if (lane == taken.id % 32) group[taken.id] = -INFINITY;
    }
    if (lane == g % 32) sums[g] = sum, kept[g] = 0.0f;
  }
  for (int n = 0; n < keep; n++) {
    const Best taken = warp_best(lane_best(sums, groups));
    if (lane == taken.id % 32) sums[taken.id] = -INFINITY, kept[taken.id] = 1.0f;
  }
  __syncwarp();  // kept is complete
  for (int e = lane; e < experts; e += 32) {
    if (kept[e / size] == 0.0f) scores[e] = -INFINITY;
  }
}

// logits [tokens, experts]; bias [experts], read if `biased`: scores are then sigmoid(s) + bias; ids [tokens, k]; status
// [tokens]. groups is 0 for none. Shared memory: a float for each expert and warp; with groups two, and two for each group.
// The ids of a row with a status are 0, 1, 2, ...
extern "C" __global__ void __launch_bounds__(128)
    top_k_f32(const float* logits, const float* bias, unsigned* ids, int* status, int tokens, int experts, int k, int biased,
              int groups, int keep, int terms) {
  TWIN_DYN_SHARED(float, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const size_t token = size_t(blockIdx.x) * (blockDim.x / 32) + warp;
  if (token >= size_t(tokens)) return;
  float* const scores = shared + size_t(warp) * (groups ? 2 * (experts + groups) : experts);
  const float* const row = logits + token * experts;
  int bad = bad_logit(row, experts);
  if (bad == 0) {
    for (int e = lane; e < experts; e += 32) {
      scores[e] = biased && row[e] > -INFINITY ? sigmoid(row[e]) + bias[e] : row[e];
    }
    if (groups) {
      float* const sums = scores + 2 * experts;
      limit_groups(scores, row, scores + experts, sums, sums + groups, experts, k / max(keep, 1), groups, keep, terms);
    }
    unsigned enabled = 0;
    for (int e = lane; e < experts; e += 32) enabled += scores[e] > -INFINITY;
    enabled = __reduce_add_sync(ALL_LANES, enabled);
    if (enabled < unsigned(k)) bad = -1 - int(enabled);
  }
  if (bad == 0) {
    Best mine = lane_best(scores, experts);
    for (int slot = 0; slot < k; slot++) {
      const Best best = warp_best(mine);
      if (lane == best.id % 32) {
        ids[token * k + slot] = unsigned(best.id);
        scores[best.id] = -INFINITY;
        mine = lane_best(scores, experts);
      }
    }
  } else {
    for (int slot = lane; slot < k; slot += 32) ids[token * k + slot] = unsigned(slot);
  }
  if (lane == 0) status[token] = bad;
}
