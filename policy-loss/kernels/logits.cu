// Rows of logits to log-probability and entropy, and back. One block for each row; f32 arithmetic, rounded once.
//
// row_stats  scores[r] = {log p(target), entropy, max logit, ln sum} of softmax(logits / T). One read of the row, by online
//            soft-max: for V logits of e bytes, e V bytes and V exponentials; 16 bytes are written.
// row_grad   replaces logits by dL/dlogits_v = (g (1{v = y} - p_v) - h p_v (log p_v + H)) / T: 2 e V bytes, V exponentials.
//
// A row whose target is negative is masked: it is not read, its scores and its gradient are +0. So is, in row_grad, a row
// with g = h = 0. Max and ln sum are kept apart because their sum has lost the digits of ln sum where logits are large.
#include "block.cuh"

// Of some logits a: the largest, sum e^x and sum x e^x for x = (a - top) / T.
struct Softmax {
  float top, sum, weighted;
  __device__ static Softmax nothing() { return {-INFINITY, 0.0f, 0.0f}; }
  __device__ Softmax down(int d) const {
    return {__shfl_down_sync(0xffffffffu, top, d), __shfl_down_sync(0xffffffffu, sum, d), __shfl_down_sync(0xffffffffu, weighted, d)};
  }
  // The same relative to a larger top.
  __device__ Softmax shifted(float to, float inv_temperature) const {
    if (sum == 0.0f || top == to) return {to, sum, weighted};
    const float x = (top - to) * inv_temperature, e = expf(x);
    return {to, e * sum, e * (weighted + x * sum)};
  }
};

struct JoinSoftmax {
  float inv_temperature;
  __device__ Softmax operator()(Softmax a, Softmax b) const {
    const float top = fmaxf(a.top, b.top);
    a = a.shifted(top, inv_temperature), b = b.shifted(top, inv_temperature);
    return {top, a.sum + b.sum, a.weighted + b.weighted};
  }
};

template <typename T>
__device__ __forceinline__ void row_stats(const T* logits, const int* targets, float* scores, int vocabulary, float inv_temperature) {
  TWIN_SHARED(Softmax, part, [32]);
  const int target = targets[blockIdx.x];
  float* const out = scores + size_t(blockIdx.x) * 4;
  if (target < 0) {
    if (threadIdx.x < 4) out[threadIdx.x] = 0.0f;
    return;
  }
  const T* const row = logits + size_t(blockIdx.x) * vocabulary;
  Softmax s = Softmax::nothing();
  for (int v = threadIdx.x; v < vocabulary; v += blockDim.x) {
    const float a = float(row[v]);
    if (a == -INFINITY) continue;  // a banned token adds nothing
    if (a > s.top) s = s.shifted(a, inv_temperature);
    const float x = (a - s.top) * inv_temperature, e = expf(x);
    s.sum += e;
    s.weighted += x * e;
  }
  s = block_reduce(s, JoinSoftmax{inv_temperature}, part);
  if (threadIdx.x == 0) {
    const float log_sum = logf(s.sum);
    out[0] = (float(row[target]) - s.top) * inv_temperature - log_sum;
    out[1] = log_sum - s.weighted / s.sum;
    out[2] = s.top;
    out[3] = log_sum;
  }
}

// upstream[r] = {g, h} = {dL/dlogp, dL/dentropy}.
template <typename T>
__device__ __forceinline__ void row_grad(T* logits, const int* targets, const float* scores, const float* upstream, int vocabulary,
                                         float inv_temperature) {
  const int r = blockIdx.x, target = targets[r];
  T* const row = logits + size_t(r) * vocabulary;
  const float g = target < 0 ? 0.0f : upstream[2 * r], h = target < 0 ? 0.0f : upstream[2 * r + 1];
  if (g == 0.0f && h == 0.0f) {
    for (int v = threadIdx.x; v < vocabulary; v += blockDim.x) row[v] = T(0.0f);
    return;
  }
  const float entropy = scores[size_t(r) * 4 + 1], top = scores[size_t(r) * 4 + 2], log_sum = scores[size_t(r) * 4 + 3];
  for (int v = threadIdx.x; v < vocabulary; v += blockDim.x) {
    const float log_p = (float(row[v]) - top) * inv_temperature - log_sum, p = expf(log_p);
    const float hit = v == target ? g : 0.0f;
    // Where p is 0, log_p may be -inf, and 0 log 0 is 0.
    const float rest = p > 0.0f ? p * (g + h * (log_p + entropy)) : 0.0f;
    row[v] = T((hit - rest) * inv_temperature + 0.0f);
  }
}

#define LOGITS(suffix, T)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(1024)                                                                       \
      row_stats_##suffix(const T* logits, const int* targets, float* scores, int vocabulary, float inv_temperature) {      \
    row_stats(logits, targets, scores, vocabulary, inv_temperature);                                                       \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(1024)                                                                       \
      row_grad_##suffix(T* logits, const int* targets, const float* scores, const float* upstream, int vocabulary,         \
                        float inv_temperature) {                                                                           \
    row_grad(logits, targets, scores, upstream, vocabulary, inv_temperature);                                              \
  }
LOGITS(f32, float)
LOGITS(bf16, __nv_bfloat16)
