// Where heads lie, and the rotation of one pair.
#pragma once
#include "twin.cuh"

// Elements from one head to another: token t is the (t % seq)-th of batch row t / seq. Token-major tensors have one batch row.
struct Heads {
  unsigned seq;
  long long batch_stride, seq_stride, head_stride;
  __device__ __forceinline__ long long at(unsigned token, unsigned head) const {
    return token / seq * batch_stride + token % seq * seq_stride + head * head_stride;
  }
};

// W elements that are loaded and stored as one, with W sizeof(T) = 16 or W = 1.
template <typename T, int W>
struct alignas(sizeof(T) * W) Lanes {
  T lane[W];
};

struct Pair {
  float first, second;
};

// By the angle whose cosine and sine are c and s; the adjoint is the same with -s.
__device__ __forceinline__ Pair turned(float x1, float x2, float c, float s) { return {x1 * c - x2 * s, x2 * c + x1 * s}; }
