// The objectives: from log-probabilities and advantages to losses and the gradient. f32 arithmetic.
//
// objective_f32  one block for each sequence, tokens offsets[i]..offsets[i + 1]:
//                losses[i] = sum over t of scale_t l_t, d_logp[t] = -scale_t c_t, where c = -dl/dlogp.
//
// Per token 25 bytes are read and 4 written, some 30 flops and up to 6 exponentials. Objectives with one ratio a sequence
// read the log-probabilities twice, the second time from the cache. Sums depend on the block size alone.
//
// A token with mask 0 is not read and gets +0. `l` and `c` are those of src/objective.rs, kind by kind; where a clamp is
// active the ratio is a constant, so nothing flows through it.
#include "block.cuh"

// kernels/objective.rs gives the numbers, and says what the coefficients of each are.
enum Kind { REINFORCE, PPO_CLIP, SEQUENCE_CLIP, GMPO, CISPO, MINI_RL_FULL, MINI_RL_MISMATCH, MINI_RL_RATIO, SAPO, DPPO_TV, DPPO_KL, VESPO };

struct Coefficients {
  float c[6];
};

struct Token {
  float logp, logp_old, delta, mismatch, advantage;
  bool saturated;
};

struct Loss {
  float value, coefficient;
};

// Of a sequence: log-ratios, GMPO's clipped ones, logp_old - logp_mu, and how many tokens.
struct Sums {
  float delta, clipped, mismatch, tokens;
  __device__ static Sums nothing() { return {0.0f, 0.0f, 0.0f, 0.0f}; }
  __device__ Sums down(int d) const {
    return {__shfl_down_sync(0xffffffffu, delta, d), __shfl_down_sync(0xffffffffu, clipped, d),
            __shfl_down_sync(0xffffffffu, mismatch, d), __shfl_down_sync(0xffffffffu, tokens, d)};
  }
  __device__ Sums operator+(const Sums& b) const {
    return {delta + b.delta, clipped + b.clipped, mismatch + b.mismatch, tokens + b.tokens};
  }
};

struct Sum {
  float value;
  __device__ static Sum nothing() { return {0.0f}; }
  __device__ Sum down(int d) const { return {__shfl_down_sync(0xffffffffu, value, d)}; }
  __device__ Sum operator+(Sum b) const { return {value + b.value}; }
};

struct Add {
  template <typename T>
  __device__ T operator()(const T& a, const T& b) const {
    return a + b;
  }
};

__device__ __forceinline__ float clamped(float x, float bound) { return fminf(fmaxf(x, -bound), bound); }

// PPO's trust region on a log-ratio: above, below or inside, where equality is.
__device__ __forceinline__ int region(float log_ratio, float a, float log_low, float log_high) {
  return a > 0.0f && log_ratio > log_high ? 1 : a < 0.0f && log_ratio < log_low ? -1 : 0;
}

// -min(r A, clip(r) A) for c = {ln(1 - low), ln(1 + high), 1 - low, 1 + high}.
__device__ __forceinline__ Loss clipped_ratio(float log_ratio, float a, const Coefficients& k) {
  const int side = region(log_ratio, a, k.c[0], k.c[1]);
  if (side != 0) return {-(side > 0 ? k.c[3] : k.c[2]) * a, 0.0f};
  const float r = expf(log_ratio) * a;
  return {-r, r};
}

__device__ __forceinline__ Loss weighted(float weight, const Token& t) {
  const float c = weight * t.advantage;
  return {-c * t.logp, c};
}

__device__ __forceinline__ float gmpo_log_ratio(float delta, float a, const Coefficients& k) {
  return a > 0.0f && delta > k.c[1] ? k.c[1] : a < 0.0f && delta < k.c[0] ? k.c[0] : delta;
}

// ln(1 - e^p), for p away from 0 as src/objective.rs has it.
__device__ __forceinline__ float log_tail(float p) { return logf(fmaxf(-expm1f(p), 1e-7f)); }

// KL divergence of two coins with log-probabilities p and q of heads.
__device__ __forceinline__ float binary_kl(float p, float q) {
  const float tail = log_tail(p);
  return expf(p) * (p - q) + expf(tail) * (tail - log_tail(q));
}

__device__ __forceinline__ Loss token_loss(int kind, const Coefficients& k, const Token& t, const Sums& s, float bound) {
  const float a = t.advantage, ratio = expf(t.delta);
  Loss loss = {0.0f, 0.0f};
  bool constant = t.saturated;
  if (kind == REINFORCE) {
    return weighted(1.0f, t);
  } else if (kind == PPO_CLIP) {
    if (a < 0.0f && t.delta > k.c[4]) return {-k.c[5] * a, 0.0f};
    loss = clipped_ratio(t.delta, a, k);
  } else if (kind == SEQUENCE_CLIP) {
    const float mean = s.delta / s.tokens;
    constant = fabsf(mean) > bound;
    loss = clipped_ratio(clamped(mean, bound), a, k);
  } else if (kind == GMPO) {
    const float mean = s.clipped / s.tokens, value = expf(clamped(mean, bound)) * a, own = t.logp - t.logp_old;
    constant = fabsf(mean) > bound || gmpo_log_ratio(own, a, k) != own;
    loss = {-value, value};
  } else if (kind == CISPO) {
    return weighted(fminf(fmaxf(ratio, k.c[0]), k.c[1]), t);
  } else if (kind == MINI_RL_FULL || kind == MINI_RL_MISMATCH || kind == MINI_RL_RATIO) {
    if (region(t.delta, a, k.c[0], k.c[1]) != 0) return loss;
    if (kind == MINI_RL_FULL) return weighted(fminf(expf(clamped(t.logp - t.logp_old + t.mismatch, bound)), k.c[2]), t);
    return weighted(kind == MINI_RL_RATIO ? ratio : ratio * fminf(expf(clamped(t.mismatch, bound)), k.c[2]), t);
  } else if (kind == SAPO) {
    // sigma and 4 sigma (1 - sigma), without overflow at any x.
    const float tau = a > 0.0f ? k.c[0] : k.c[1], x = tau * (ratio - 1.0f), e = expf(-fabsf(x)), high = 1.0f / (1.0f + e);
    loss = {-(4.0f / tau) * (x >= 0.0f ? high : e * high) * a, a * ratio * (4.0f * e * high * high)};
  } else if (kind == DPPO_TV) {
    const float change = expf(t.logp) - expf(t.logp_old);
    if (a > 0.0f ? change > k.c[1] : change < -k.c[0]) return loss;
    return weighted(fminf(ratio, k.c[2]), t);
  } else if (kind == DPPO_KL) {
    const bool outward = a > 0.0f ? t.logp > t.logp_old : t.logp < t.logp_old;
    if (outward && binary_kl(t.logp_old, t.logp) > (a > 0.0f ? k.c[1] : k.c[0])) return loss;
    return weighted(fminf(ratio, k.c[2]), t);
  } else {
    const float log_w = fminf(fmaxf(s.delta + s.mismatch, -18.420681f), 20.0f);  // ln 1e-8
    const float power = a >= 0.0f ? k.c[0] : k.c[2], lambda = a >= 0.0f ? k.c[1] : k.c[3];
    return weighted(expf(lambda + power * log_w - lambda * expf(log_w)), t);
  }
  if (constant) loss.coefficient = 0.0f;
  return loss;
}

extern "C" __global__ void __launch_bounds__(256)
    objective_f32(const float* logp, const float* logp_old, const float* logp_mu, const float* advantages, const unsigned char* mask,
                  const float* scale, const int* offsets, float* losses, float* d_logp, int kind, float bound, float c0, float c1,
                  float c2, float c3, float c4, float c5) {
  TWIN_SHARED(Sums, sums, [32]);
  TWIN_SHARED(Sum, part, [32]);
  const Coefficients k = {{c0, c1, c2, c3, c4, c5}};
  const int begin = offsets[blockIdx.x] + threadIdx.x, end = offsets[blockIdx.x + 1];
  Sums sequence = Sums::nothing();
  if (kind == SEQUENCE_CLIP || kind == GMPO || kind == VESPO) {
    for (int t = begin; t < end; t += blockDim.x) {
      if (mask[t] == 0) continue;
      const float delta = logp[t] - logp_old[t];
      sequence = sequence + Sums{delta, gmpo_log_ratio(delta, advantages[t], k), logp_old[t] - logp_mu[t], 1.0f};
    }
    sequence = block_reduce(sequence, Add(), sums);
    if (threadIdx.x == 0) sums[0] = sequence;
    __syncthreads();  // the sequence's sums are there
    sequence = sums[0];
  }
  Sum sum = Sum::nothing();
  for (int t = begin; t < end; t += blockDim.x) {
    if (mask[t] == 0) {
      d_logp[t] = 0.0f;
      continue;
    }
    const float raw = logp[t] - logp_old[t];
    const Token token = {logp[t], logp_old[t], clamped(raw, bound), logp_old[t] - logp_mu[t], advantages[t], fabsf(raw) > bound};
    Loss loss = {0.0f, 0.0f};
    if (token.advantage != 0.0f) loss = token_loss(kind, k, token, sequence, bound);
    sum.value += scale[t] * loss.value;
    d_logp[t] = 0.0f - scale[t] * loss.coefficient;
  }
  sum = block_reduce(sum, Add(), part);
  if (threadIdx.x == 0) losses[blockIdx.x] = sum.value;
}
