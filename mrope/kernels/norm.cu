// RMS norm of each query and key head, then its rotation: one read and one write of the projection.
//
// norm_rotate_T            y = rotate(w x rstd), rstd [tokens, query + kv] kept for the backward; value heads are copied.
//                          A warp for each head: 2 d sizeof(T) bytes, 4 pairs floats of the table, 4 d of weight from cache.
// norm_rotate_backward_T   dx, and partial sums of dw [chunks, query + kv, d] over `rows` tokens each. A warp for each head and
//                          chunk, so a lane sums in its registers: 3 d sizeof(T) bytes a head.
// norm_rotate_weights      dw_q, dw_k [d] from the partial sums, in the order of chunks and heads.
//
// Half-split pairing, one plane of the table, token-major [tokens, query + 2 kv, d]. d - pairs is at most 128.
#include "rotary.cuh"

constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float v) {
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(ALL_LANES, v, d);
  return v;
}

// What a lane owns of a head: items lane, lane + 32, ... of the pairs and then of the lanes without one.
struct Owned {
  int width, pairs;
  __device__ __forceinline__ int items() const { return width - pairs; }
  __device__ __forceinline__ bool turns(int item) const { return item < pairs; }
  __device__ __forceinline__ int first(int item) const { return item < pairs ? item : item + pairs; }
};
// Items of a lane: there are at most 128, which keeps them in registers.
constexpr int OWN = 4;

template <typename T>
__device__ __forceinline__ void norm_rotate(const T* x, T* y, const float* q_weight, const float* k_weight, float eps,
                                            const float* cosines, const float* sines, float* rstds, int tokens, int query, int kv,
                                            Owned own) {
  const int lane = threadIdx.x % 32, heads = query + 2 * kv;
  const unsigned warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (warp >= unsigned(tokens) * heads) return;
  const int head = int(warp % heads);
  const unsigned token = warp / heads;
  const T* const in = x + (long long)warp * own.width;
  T* const out = y + (long long)warp * own.width;
  if (head >= query + kv) {
    for (int i = lane; i < own.width; i += 32) out[i] = in[i];
    return;
  }
  const float* const weight = head < query ? q_weight : k_weight;
  float squares = 0.0f;
  for (int i = lane; i < own.width; i += 32) squares += float(in[i]) * float(in[i]);
  const float rstd = 1.0f / sqrtf(warp_sum(squares) / float(own.width) + eps);
  if (lane == 0) rstds[(long long)token * (query + kv) + head] = rstd;
  for (int item = lane; item < own.items(); item += 32) {
    const int a = own.first(item), b = a + own.pairs;
    const float z1 = float(in[a]) * rstd * weight[a];
    if (!own.turns(item)) {
      out[a] = T(z1);
      continue;
    }
    const float z2 = float(in[b]) * rstd * weight[b];
    const long long row = (long long)token * own.pairs + item;
    const Pair p = turned(z1, z2, cosines[row], sines[row]);
    out[a] = T(p.first), out[b] = T(p.second);
  }
}

template <typename T>
__device__ __forceinline__ void norm_rotate_backward(const T* x, const T* dy, T* dx, const float* q_weight, const float* k_weight,
                                                     const float* cosines, const float* sines, const float* rstds,
                                                     float* partial, int tokens, int rows, int query, int kv, Owned own) {
  const int lane = threadIdx.x % 32, heads = query + 2 * kv, normed = query + kv;
  const unsigned warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  const int chunks = (tokens + rows - 1) / rows;
  if (warp >= unsigned(chunks) * heads) return;
  const int head = int(warp % heads), chunk = int(warp / heads);
  const int end = min(tokens, (chunk + 1) * rows);
  const float* const weight = head < query ? q_weight : k_weight;
  float sums[OWN][2] = {};
  for (int token = chunk * rows; token < end; token++) {
    const long long start = ((long long)token * heads + head) * own.width;
    const T *const in = x + start, *const up = dy + start;
    T* const out = dx + start;
    if (head >= normed) {
      for (int i = lane; i < own.width; i += 32) out[i] = up[i];
      continue;
    }
    const float rstd = rstds[(long long)token * normed + head];
    // dz: the gradient before the rotation.
    float dz[OWN][2], shared = 0.0f;
#pragma unroll
    for (int k = 0; k < OWN; k++) {
      const int item = lane + 32 * k;
      if (item >= own.items()) break;
      const int a = own.first(item), b = a + own.pairs;
      dz[k][0] = float(up[a]), dz[k][1] = 0.0f;
      if (own.turns(item)) {
        const long long row = (long long)token * own.pairs + item;
        const Pair p = turned(dz[k][0], float(up[b]), cosines[row], -sines[row]);
        dz[k][0] = p.first, dz[k][1] = p.second;
        shared += dz[k][1] * weight[b] * float(in[b]);
      }
      shared += dz[k][0] * weight[a] * float(in[a]);
    }
    shared = warp_sum(shared) * rstd * rstd * rstd / float(own.width);
#pragma unroll
    for (int k = 0; k < OWN; k++) {
      const int item = lane + 32 * k;
      if (item >= own.items()) break;
      const int a = own.first(item), b = a + own.pairs;
      sums[k][0] += dz[k][0] * float(in[a]) * rstd;
      const T first = T(dz[k][0] * weight[a] * rstd - float(in[a]) * shared);
      if (own.turns(item)) {
        sums[k][1] += dz[k][1] * float(in[b]) * rstd;
        out[b] = T(dz[k][1] * weight[b] * rstd - float(in[b]) * shared);
      }
      out[a] = first;
    }
  }
  if (head >= normed) return;
  float* const sum = partial + ((long long)chunk * normed + head) * own.width;
#pragma unroll
  for (int k = 0; k < OWN; k++) {
    const int item = lane + 32 * k;
    if (item >= own.items()) break;
    const int a = own.first(item);
    sum[a] = sums[k][0];
    if (own.turns(item)) sum[a + own.pairs] = sums[k][1];
  }
}

// A thread for each of the 2 d weights.
extern "C" __global__ void norm_rotate_weights(const float* partial, float* dq, float* dk, int chunks, int query, int kv, int width) {
  const int at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= 2 * width) return;
  const bool of_keys = at >= width;
  const int first = of_keys ? query : 0, end = of_keys ? query + kv : query, i = of_keys ? at - width : at;
  float sum = 0.0f;
  for (int chunk = 0; chunk < chunks; chunk++) {
    for (int head = first; head < end; head++) sum += partial[((long long)chunk * (query + kv) + head) * width + i];
  }
  (of_keys ? dk : dq)[i] = sum;
}

#define NORM_ROTATE(suffix, T)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(128)                                                                            \
      norm_rotate_##suffix(const T* x, T* y, const float* q_weight, const float* k_weight, float eps, const float* cosines,    \
                           const float* sines, float* rstds, int tokens, int query, int kv, int width, int pairs) {            \
    norm_rotate(x, y, q_weight, k_weight, eps, cosines, sines, rstds, tokens, query, kv, {width, pairs});                      \
  }                                                                                                                            \
  extern "C" __global__ void __launch_bounds__(128)                                                                            \
      norm_rotate_backward_##suffix(const T* x, const T* dy, T* dx, const float* q_weight, const float* k_weight,              \
                                    const float* cosines, const float* sines, const float* rstds, float* partial, int tokens,  \
                                    int rows, int query, int kv, int width, int pairs) {                                       \
    norm_rotate_backward(x, dy, dx, q_weight, k_weight, cosines, sines, rstds, partial, tokens, rows, query, kv,               \
                         {width, pairs});                                                                                      \
  }
NORM_ROTATE(f32, float)
NORM_ROTATE(bf16, __nv_bfloat16)
NORM_ROTATE(f16, __half)
