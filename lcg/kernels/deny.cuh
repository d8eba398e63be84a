// Which tokens a row denies, by their signature classes. The table of classes is of the vocabulary; a row has 32 bits of families,
// from which a block makes one bit a class in shared memory.
#pragma once
#include "twin.cuh"

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int CLASS_WORDS = 32;  // at most 1024 classes

struct Vocabulary {
  const unsigned short* class_of;  // [V]
  const unsigned* signatures;      // [classes, 2]: any, all
  int classes;
};

// Tokens that finish the pending character of a row, ascending, with their signatures: rows first[r] .. first[r + 1].
struct Overrides {
  const int* first;
  const int* tokens;
  const unsigned* signatures;
};

__device__ __forceinline__ bool is_denied(unsigned any, unsigned all, unsigned denied) {
  return (any & denied) != 0 || (all != 0 && (all & ~denied) == 0);
}

// Signature of a token in row r.
__device__ __forceinline__ uint2 signature(const Vocabulary& v, const Overrides& o, int r, int token) {
  int low = o.first[r], high = o.first[r + 1];
  const int end = high;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (o.tokens[middle] < token) low = middle + 1;
    else high = middle;
  }
  const unsigned* const s = low < end && o.tokens[low] == token ? o.signatures + 2 * size_t(low) : v.signatures + 2 * v.class_of[token];
  return {s[0], s[1]};
}

// Fills bits [CLASS_WORDS]; all threads of the block take part, and a barrier must follow.
__device__ __forceinline__ void deny_classes(const Vocabulary& v, unsigned denied, unsigned* bits) {
  for (int w = threadIdx.x; w < CLASS_WORDS; w += blockDim.x) {
    unsigned word = 0;
    for (int b = 0; b < 32 && w * 32 + b < v.classes; b++) {
      const unsigned* const s = v.signatures + 2 * (w * 32 + b);
      word |= unsigned(is_denied(s[0], s[1], denied)) << b;
    }
    bits[w] = word;
  }
}

// Whether row r denies a token, by the bits of its classes.
__device__ __forceinline__ bool denies(const Vocabulary& v, const Overrides& o, int r, unsigned denied, const unsigned* bits, int token) {
  if (o.first[r] < o.first[r + 1]) {
    const uint2 s = signature(v, o, r, token);
    return is_denied(s.x, s.y, denied);
  }
  const int c = v.class_of[token];
  return bits[c / 32] >> (c % 32) & 1;
}

// Of some logits: the largest, and sum exp((z - top) / T). Differences come first: large logits over T have lost their digits.
struct ExpSum {
  float top, sum;
  __device__ static ExpSum nothing() { return {-INFINITY, 0.0f}; }
  __device__ ExpSum down(int d) const { return {__shfl_down_sync(ALL_LANES, top, d), __shfl_down_sync(ALL_LANES, sum, d)}; }
  __device__ ExpSum shifted(float to, float inv_temperature) const {
    return {to, sum == 0.0f || top == to ? sum : sum * expf((top - to) * inv_temperature)};
  }
  __device__ void add(float z, float inv_temperature) {
    if (z > top) *this = shifted(z, inv_temperature);
    sum += expf((z - top) * inv_temperature);
  }
  __device__ float log_prob(float z, float inv_temperature) const { return (z - top) * inv_temperature - logf(sum); }
};

__device__ __forceinline__ ExpSum join(ExpSum a, ExpSum b, float inv_temperature) {
  const float top = fmaxf(a.top, b.top);
  return {top, a.shifted(top, inv_temperature).sum + b.shifted(top, inv_temperature).sum};
}
