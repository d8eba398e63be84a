// The gate's network: g = W2 relu(W1 h), and the families whose g reaches its threshold, with the likeliest one.
//
// One block for 8 rows, one thread for each of the m hidden units (a multiple of 32, at most 256). W1 is streamed once through shared
// memory in tiles of 32 columns: 4 m d bytes for 8 rows, 2 m d operations a row. families[r] is 0 where a g is NaN.
#include "twin.cuh"

constexpr int ROWS = 8, COLUMNS = 32;

extern "C" __global__ void __launch_bounds__(256)
    lcg_gate_f32(const float* hidden, const float* w1, const float* w2, const float* thresholds, float* g, unsigned* families, int rows,
                 int hidden_size, int width, int count) {
  TWIN_DYN_SHARED(float, shared);
  float* const tile = shared;                        // [width][COLUMNS + 1]
  float* const h = tile + width * (COLUMNS + 1);     // [ROWS][COLUMNS]
  float* const inner = h + ROWS * COLUMNS;           // [ROWS][width]
  float* const out = inner + ROWS * width;           // [ROWS][32]
  const int unit = threadIdx.x, base = blockIdx.x * ROWS;
  float sums[ROWS] = {};
  for (int start = 0; start < hidden_size; start += COLUMNS) {
    for (int i = threadIdx.x; i < width * COLUMNS; i += blockDim.x) {
      const int row = i / COLUMNS, column = i % COLUMNS;
      tile[row * (COLUMNS + 1) + column] = start + column < hidden_size ? w1[size_t(row) * hidden_size + start + column] : 0.0f;
    }
    for (int i = threadIdx.x; i < ROWS * COLUMNS; i += blockDim.x) {
      const int row = base + i / COLUMNS, column = start + i % COLUMNS;
      h[i] = row < rows && column < hidden_size ? hidden[size_t(row) * hidden_size + column] : 0.0f;
    }
    __syncthreads();  // tile and h are complete
    for (int c = 0; c < COLUMNS; c++) {
      const float w = tile[unit * (COLUMNS + 1) + c];
      for (int r = 0; r < ROWS; r++) sums[r] += w * h[r * COLUMNS + c];
    }
    __syncthreads();  // tile and h have been read
  }
  // A comparison keeps NaN, a maximum would not.
  for (int r = 0; r < ROWS; r++) inner[r * width + unit] = sums[r] < 0.0f ? 0.0f : sums[r];
  __syncthreads();  // inner is complete
  for (int i = threadIdx.x; i < ROWS * count; i += blockDim.x) {
    const int r = i / count, f = i % count;
    float sum = 0.0f;
    for (int u = 0; u < width; u++) sum += w2[f * width + u] * inner[r * width + u];
    out[r * 32 + f] = sum;
    if (base + r < rows) g[size_t(base + r) * count + f] = sum;
  }
  __syncthreads();  // out is complete
  const int r = threadIdx.x;
  if (r < ROWS && base + r < rows) {
    unsigned set = 0;
    int best = 0;
    bool number = true;
    for (int f = 0; f < count; f++) {
      const float x = out[r * 32 + f];
      number = number && x == x;
      if (x >= thresholds[f]) set |= 1u << f;
      if (x > out[r * 32 + best]) best = f;
    }
    families[base + r] = number ? set | 1u << best : 0u;
  }
}
