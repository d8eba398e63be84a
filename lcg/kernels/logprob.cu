// Log-probabilities under recorded masks, and back. One block a row; f32 arithmetic, rounded once.
//
// masked_logprob       scores[r] = {log p(token), max allowed z, ln sum, 0}: one read of the row, e V bytes.
// masked_logprob_grad  replaces logits by upstream[r] ([v = token] - p_v) / T for allowed tokens, +0 for the others: 2 e V bytes.
//
// Neither the mask of a gate nor a softmax is ever in memory. What truncation kept of a row is a bit a token, V / 8 bytes more to read;
// logits outside it are not read. A row with a negative token is padding: it is not read, and gets zeros. A token outside its own
// record gets NaN and a status of 1, and the row no gradient.
#include "deny.cuh"

// What truncation kept: the place of each row's bits, in rows of ceil(V / 32) words; negative where it kept all.
struct Truncation {
  const int* place;
  const unsigned* words;
  __device__ const unsigned* of_row(int r, int width) const {
    return place[r] < 0 ? nullptr : words + size_t(place[r]) * ((width + 31) / 32);
  }
};

// Whether a token is in the support of row r.
__device__ __forceinline__ bool holds(const Vocabulary& v, const Overrides& o, int r, unsigned denied, const unsigned* bits,
                                      const unsigned* kept, int token) {
  if (kept != nullptr && (kept[token / 32] >> (token % 32) & 1) == 0) return false;
  return denied == 0 || !denies(v, o, r, denied, bits, token);
}

template <typename T>
__device__ __forceinline__ void masked_logprob(const T* logits, Vocabulary vocabulary, Overrides overrides, const unsigned* denied,
                                               Truncation truncation, const int* targets, float* scores, int width,
                                               float inv_temperature) {
  TWIN_SHARED(unsigned, bits, [CLASS_WORDS]);
  TWIN_SHARED(ExpSum, part, [32]);
  const int r = blockIdx.x, target = targets[r], lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float* const out = scores + size_t(r) * 4;
  if (target < 0) {
    if (threadIdx.x < 4) out[threadIdx.x] = 0.0f;
    return;
  }
  const unsigned denies_here = denied[r];
  deny_classes(vocabulary, denies_here, bits);
  __syncthreads();  // bits are complete
  const T* const row = logits + size_t(r) * width;
  const unsigned* const kept = truncation.of_row(r, width);
  ExpSum s = ExpSum::nothing();
  for (int v = threadIdx.x; v < width; v += blockDim.x) {
    if (!holds(vocabulary, overrides, r, denies_here, bits, kept, v)) continue;
    const float z = float(row[v]);
    if (z > -INFINITY) s.add(z, inv_temperature);
    else if (z != z) s.sum = z;
  }
  for (int d = 16; d > 0; d >>= 1) s = join(s, s.down(d), inv_temperature);
  if (lane == 0) part[warp] = s;
  __syncthreads();  // part is complete
  if (threadIdx.x > 0) return;
  for (int w = 1; w < int(blockDim.x) / 32; w++) s = join(s, part[w], inv_temperature);
  const bool gone = !holds(vocabulary, overrides, r, denies_here, bits, kept, target);
  out[0] = gone ? NAN : s.log_prob(float(row[target]), inv_temperature);
  out[1] = s.top, out[2] = logf(s.sum), out[3] = gone ? 1.0f : 0.0f;
}

template <typename T>
__device__ __forceinline__ void masked_logprob_grad(T* logits, Vocabulary vocabulary, Overrides overrides, const unsigned* denied,
                                                    Truncation truncation, const int* targets, const float* scores,
                                                    const float* upstream, int width, float inv_temperature) {
  TWIN_SHARED(unsigned, bits, [CLASS_WORDS]);
  const int r = blockIdx.x, target = targets[r];
  T* const row = logits + size_t(r) * width;
  const float d = target < 0 || scores[size_t(r) * 4 + 3] != 0.0f ? 0.0f : upstream[r] * inv_temperature;
  const unsigned denies_here = denied[r];
  deny_classes(vocabulary, denies_here, bits);
  __syncthreads();  // bits are complete
  const unsigned* const kept = truncation.of_row(r, width);
  const float top = scores[size_t(r) * 4 + 1], log_sum = scores[size_t(r) * 4 + 2];
  for (int v = threadIdx.x; v < width; v += blockDim.x) {
    if (d == 0.0f || !holds(vocabulary, overrides, r, denies_here, bits, kept, v)) {
      row[v] = T(0.0f);
      continue;
    }
    const float p = expf((float(row[v]) - top) * inv_temperature - log_sum);
    row[v] = T(d * ((v == target ? 1.0f : 0.0f) - p));
  }
}

#define LOGPROB(suffix, T)                                                                                                            \
  extern "C" __global__ void __launch_bounds__(1024)                                                                                  \
      masked_logprob_##suffix(const T* logits, const unsigned short* class_of, const unsigned* signatures, const int* first,          \
                              const int* tokens, const unsigned* dynamic, const unsigned* denied, const int* place,                   \
                              const unsigned* kept, const int* targets, float* scores, int width, int classes,                        \
                              float inv_temperature) {                                                                                \
    masked_logprob(logits, {class_of, signatures, classes}, {first, tokens, dynamic}, denied, {place, kept}, targets, scores, width,  \
                   inv_temperature);                                                                                                  \
  }                                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(1024)                                                                                  \
      masked_logprob_grad_##suffix(T* logits, const unsigned short* class_of, const unsigned* signatures, const int* first,           \
                                   const int* tokens, const unsigned* dynamic, const unsigned* denied, const int* place,              \
                                   const unsigned* kept, const int* targets, const float* scores, const float* upstream,              \
                                   int width, int classes, float inv_temperature) {                                                   \
    masked_logprob_grad(logits, {class_of, signatures, classes}, {first, tokens, dynamic}, denied, {place, kept}, targets, scores,    \
                        upstream, width, inv_temperature);                                                                            \
  }
LOGPROB(f32, float)
LOGPROB(bf16, __nv_bfloat16)
