// Rows of activations into the order of experts and back, with gates; f32 arithmetic, rounded once, no atomics.
//
// permute            rows[p] = x[token_of[p]]: for P pairs of D elements of e bytes, P D e are read and written.
// unpermute          y[t] = sum over slots of gate * rows[inverse]: reads P D e, writes T D e, 2 P D flops.
// unpermute_backward d_rows[p] = gate * dy[token], d_gates[slot] = <dy[token], rows[p]>, in one pass: reads 2 P D e (dy from
//                    the cache but for T D e), writes P D e, 3 P D flops.
// permute_backward   dx[t] = sum over slots of d_rows[inverse]: as unpermute.
//
// Sums over slots run by ascending position, which is ascending expert, so the order of slots does not change a bit. Each
// kernel comes in two widths: an element a thread, and `wide`, 16 bytes a thread, where D and the addresses allow.
#include "warp.cuh"

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> load(const T* from, int i) {
  return reinterpret_cast<const Pack<T, N>*>(from)[i];
}

template <typename T, int N>
__device__ __forceinline__ void store(T* to, int i, const Pack<T, N>& pack) {
  reinterpret_cast<Pack<T, N>*>(to)[i] = pack;
}

// One block for each position.
template <typename T, int N>
__device__ __forceinline__ void permute(const T* x, const unsigned* token_of, T* rows, int width) {
  const T* const from = x + size_t(token_of[blockIdx.x]) * width;
  T* const to = rows + size_t(blockIdx.x) * width;
  for (int i = threadIdx.x; i < width / N; i += blockDim.x) store<T, N>(to, i, load<T, N>(from, i));
}

// One block for each token. Shared memory: k positions in ascending order and their gates.
template <typename T, int N>
__device__ __forceinline__ void unpermute(const T* rows, const float* gates, const unsigned* inverse, T* y, int k, int width) {
  TWIN_DYN_SHARED(unsigned, positions);
  float* const weights = reinterpret_cast<float*>(positions + k);
  const unsigned* const mine = inverse + size_t(blockIdx.x) * k;
  for (int s = threadIdx.x; s < k; s += blockDim.x) {
    int rank = 0;
    for (int j = 0; j < k; j++) rank += mine[j] < mine[s];
    positions[rank] = mine[s];
    weights[rank] = gates ? gates[size_t(blockIdx.x) * k + s] : 1.0f;
  }
  __syncthreads();  // positions and weights are complete
  for (int i = threadIdx.x; i < width / N; i += blockDim.x) {
    float sum[N] = {};
    for (int s = 0; s < k; s++) {
      const Pack<T, N> row = load<T, N>(rows + size_t(positions[s]) * width, i);
      for (int n = 0; n < N; n++) sum[n] += weights[s] * float(row.v[n]);
    }
    Pack<T, N> out;
    for (int n = 0; n < N; n++) out.v[n] = T(sum[n]);
    store<T, N>(y + size_t(blockIdx.x) * width, i, out);
  }
}

// One warp for each position.
template <typename T, int N>
__device__ __forceinline__ void unpermute_backward(const T* dy, const T* rows, const float* gates, const unsigned* order, T* d_rows,
                                                   float* d_gates, int pairs, int k, int width) {
  const size_t position = size_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (position >= size_t(pairs)) return;
  const unsigned slot = order[position];
  const T* const dy_row = dy + size_t(slot / k) * width;
  const T* const row = rows + position * width;
  T* const d_row = d_rows + position * width;
  const float gate = gates[slot];
  float inner = 0.0f;
  for (int i = threadIdx.x % 32; i < width / N; i += 32) {
    const Pack<T, N> d = load<T, N>(dy_row, i), o = load<T, N>(row, i);
    Pack<T, N> out;
    for (int n = 0; n < N; n++) {
      inner += float(d.v[n]) * float(o.v[n]);
      out.v[n] = T(gate * float(d.v[n]));
    }
    store<T, N>(d_row, i, out);
  }
  inner = warp_sum(inner);
  if (threadIdx.x % 32 == 0) d_gates[slot] = inner;
}

#define PERMUTE(suffix, T, N)                                                                                              \
  extern "C" __global__ void __launch_bounds__(256)                                                                        \
      permute_##suffix(const T* x, const unsigned* token_of, T* rows, int width) {                                         \
    permute<T, N>(x, token_of, rows, width);                                                                               \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(256)                                                                        \
      unpermute_##suffix(const T* rows, const float* gates, const unsigned* inverse, T* y, int k, int width) {             \
    unpermute<T, N>(rows, gates, inverse, y, k, width);                                                                    \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(256)                                                                        \
      permute_backward_##suffix(const T* d_rows, const unsigned* inverse, T* dx, int k, int width) {                       \
    unpermute<T, N>(d_rows, nullptr, inverse, dx, k, width);                                                               \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(256)                                                                        \
      unpermute_backward_##suffix(const T* dy, const T* rows, const float* gates, const unsigned* order, T* d_rows,        \
                                  float* d_gates, int pairs, int k, int width) {                                           \
    unpermute_backward<T, N>(dy, rows, gates, order, d_rows, d_gates, pairs, k, width);                                    \
  }
PERMUTE(f32, float, 1)
PERMUTE(f32_wide, float, 4)
PERMUTE(bf16, __nv_bfloat16, 1)
PERMUTE(bf16_wide, __nv_bfloat16, 8)
