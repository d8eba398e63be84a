// The order in which (token, expert) pairs are computed: a stable counting sort of the slots q = token k + slot by expert.
// No atomics: the result is the same in every order, and so are the sums that follow from it.
//
// dispatch_count    one warp counts the experts of a tile of TILE slots: counts [tiles, experts].
// dispatch_scan     one block turns counts into first positions, over (expert, tile), and gives offsets [experts + 1].
// dispatch_scatter  one warp places its tile, 32 slots at a time in order: lanes of one expert rank themselves by
//                   __match_any_sync, the last of them moves the expert's cursor.
//
// For P slots: ids are read twice and three arrays written (20 P bytes), counts pass four times.
#include "warp.cuh"

// kernels/dispatch.rs has the same number.
constexpr int TILE = 1024;

// Lanes before this one among `lanes`.
__device__ __forceinline__ int rank_in(unsigned lanes) { return __popc(lanes & ((1u << threadIdx.x % 32) - 1)); }

// The last of `lanes`.
__device__ __forceinline__ bool is_last(unsigned lanes) { return lanes >> threadIdx.x % 32 == 1; }

extern "C" __global__ void __launch_bounds__(32) dispatch_count(const unsigned* ids, int* counts, int pairs, int experts) {
  TWIN_DYN_SHARED(int, count);
  const int lane = threadIdx.x, first = blockIdx.x * TILE, end = min(pairs - first, TILE) + first;
  for (int e = lane; e < experts; e += 32) count[e] = 0;
  __syncwarp();  // all counts are 0
  for (int q = first; q < end; q += 32) {
    const int slot = q + lane;
    const unsigned expert = slot < end ? ids[slot] : ALL_LANES, same = __match_any_sync(ALL_LANES, expert);
    if (slot < end && is_last(same)) count[expert] += __popc(same);
    __syncwarp();  // the counts of these 32 slots are in
  }
  for (int e = lane; e < experts; e += 32) counts[size_t(blockIdx.x) * experts + e] = count[e];
}

// Threads of the block are a multiple of 32, at most 1024; thread i takes experts i, i + blockDim.x, ...
extern "C" __global__ void __launch_bounds__(256) dispatch_scan(int* counts, unsigned* offsets, int tiles, int experts) {
  TWIN_SHARED(int, part, [32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  int before = 0;  // positions of the experts of earlier rounds
  for (int first = 0; first < experts; first += blockDim.x) {
    const int expert = first + threadIdx.x;
    int total = 0;
    for (int t = 0; t < tiles && expert < experts; t++) total += counts[size_t(t) * experts + expert];
    int sum = total;  // becomes the sum over this and all lower lanes
    for (int d = 1; d < 32; d <<= 1) {
      const int other = __shfl_up_sync(ALL_LANES, sum, d);
      if (lane >= d) sum += other;
    }
    if (lane == 31) part[warp] = sum;
    __syncthreads();  // part is complete
    int start = before + sum - total;
    for (int w = 0; w < warps; w++) {
      if (w < warp) start += part[w];
      before += part[w];
    }
    __syncthreads();  // part may be written again
    if (expert < experts) {
      offsets[expert] = unsigned(start);
      for (int t = 0; t < tiles; t++) {
        int* const count = counts + size_t(t) * experts + expert;
        const int n = *count;
        *count = start;
        start += n;
      }
    }
  }
  if (threadIdx.x == 0) offsets[experts] = unsigned(before);
}

extern "C" __global__ void __launch_bounds__(32)
    dispatch_scatter(const unsigned* ids, const int* starts, unsigned* order, unsigned* token_of, unsigned* inverse, int pairs,
                     int experts, int k) {
  TWIN_DYN_SHARED(int, cursor);
  const int lane = threadIdx.x, first = blockIdx.x * TILE, end = min(pairs - first, TILE) + first;
  for (int e = lane; e < experts; e += 32) cursor[e] = starts[size_t(blockIdx.x) * experts + e];
  __syncwarp();  // all cursors are set
  for (int q = first; q < end; q += 32) {
    const int slot = q + lane;
    const unsigned expert = slot < end ? ids[slot] : ALL_LANES, same = __match_any_sync(ALL_LANES, expert);
    const int position = slot < end ? cursor[expert] + rank_in(same) : 0;
    __syncwarp();  // all have read their cursor
    if (slot < end) {
      if (is_last(same)) cursor[expert] = position + 1;
      order[position] = unsigned(slot);
      token_of[position] = unsigned(slot / k);
      inverse[slot] = unsigned(position);
    }
    __syncwarp();  // cursors have moved
  }
}
