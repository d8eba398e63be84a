// Rankings from a matrix of wins: w[i][j] is how often i beat j, a tie half a win for both; the diagonal is 0.
//
// standings_f32      points (2 for each item beaten more often than it won, 1 for an even one) and margin (wins less losses).
// bradley_terry_f32  one step of Hunter's MM iteration: p_i = (wins_i + a) / (sum_j n_ij / (p_i + p_j) + 2 a / (p_i + 1)).
//
// A block has 32 rows and walks over tiles of 32 columns. Losses stand in the transposed tile, which goes through shared memory, so that
// both are read in whole lines: 8 bytes a cell. Every sum runs by column, then over lanes: its order depends on nothing. Sums are in f64,
// of which there is one for 8 bytes: reading stays the limit.
#include "twin.cuh"

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int TILE = 32, ROWS = 8, OWN = TILE / ROWS;

__device__ __forceinline__ double warp_sum(double v) {
  for (int m = 16; m > 0; m >>= 1) v += __shfl_xor_sync(ALL_LANES, v, m);
  return v;
}

// Calls take(r, i, j, wins, losses) for the cells of this thread: row i = the r-th of its own, column j.
template <class Take>
__device__ __forceinline__ void cells(const float* w, float (*tile)[TILE + 1], int n, Take take) {
  const int lane = threadIdx.x, warp = threadIdx.y, first = blockIdx.x * TILE;
  for (int left = 0; left < n; left += TILE) {
    for (int r = 0; r < OWN; r++) {
      const int row = left + warp + ROWS * r, column = first + lane;
      tile[warp + ROWS * r][lane] = row < n && column < n ? w[(long long)row * n + column] : 0.0f;
    }
    __syncthreads();  // the transposed tile is whole
    for (int r = 0; r < OWN; r++) {
      const int own = warp + ROWS * r, i = first + own, j = left + lane;
      if (i < n && j < n && i != j) take(r, i, j, w[(long long)i * n + j], tile[lane][own]);
    }
    __syncthreads();  // it is read
  }
}

// w [n, n]; points [n]; margin [n].
extern "C" __global__ void __launch_bounds__(256) standings_f32(const float* w, int* points, double* margin, int n) {
  TWIN_SHARED(float, tile, [TILE][TILE + 1]);
  int point[OWN] = {};
  double balance[OWN] = {};
  cells(w, tile, n, [&](int r, int, int, float wins, float losses) {
    if (wins > 0.0f || losses > 0.0f) point[r] += wins > losses ? 2 : wins == losses ? 1 : 0;
    balance[r] += double(wins) - double(losses);
  });
  for (int r = 0; r < OWN; r++) {
    const int i = blockIdx.x * TILE + threadIdx.y + ROWS * r;
    const int sum = __reduce_add_sync(ALL_LANES, point[r]);
    const double all = warp_sum(balance[r]);
    if (threadIdx.x == 0 && i < n) points[i] = sum, margin[i] = all;
  }
}

// w [n, n]; p [n], above 0; out [n]; prior: a, ties with an item of strength 1.
extern "C" __global__ void __launch_bounds__(256)
    bradley_terry_f32(const float* w, const double* p, double* out, double prior, int n) {
  TWIN_SHARED(float, tile, [TILE][TILE + 1]);
  double won[OWN] = {}, met[OWN] = {};
  cells(w, tile, n, [&](int r, int i, int j, float wins, float losses) {
    const double games = double(wins) + double(losses);
    won[r] += double(wins);
    if (games > 0.0) met[r] += games / (p[i] + p[j]);
  });
  for (int r = 0; r < OWN; r++) {
    const int i = blockIdx.x * TILE + threadIdx.y + ROWS * r;
    const double above = warp_sum(won[r]), below = warp_sum(met[r]);
    if (threadIdx.x == 0 && i < n) out[i] = (above + prior) / (below + 2.0 * prior / (p[i] + 1.0));
  }
}
