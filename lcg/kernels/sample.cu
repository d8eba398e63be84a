// One row of logits to one token, gated: what `sample` of this crate does.
//
// lcg_scan   reads the row once (e V bytes, and 2 V of classes from L2), split over `splits` blocks. Each leaves max and sum of
//            exponentials of allowed and of denied tokens, the best noisy score over all and over allowed tokens, the first bad
//            logit, and the 32 likeliest tokens.
// lcg_nucleus, for supports that the 32 likeliest may not hold, selects the last token that stays and sums over the support. One
//            block a row reads it 4 times: 3 times for the digits of the last token (5 times where its logit is another's too), and
//            once for the support. Masses are integers in units of 2^-40 of the likeliest token's: sums have no order.
// lcg_draw   one warp a row joins the splits, applies rule 2, and writes the draw. Of the row it reads the drawn logit.
//
// Scores are x + Gumbel noise of Philox4x32-10, keyed by (seed, sequence, position) and counted by token: a draw depends on neither
// batch nor launch shape. Scores and ranks are compared with ties to the lower id, so their order is total and no split matters.
// The likeliest tokens of a warp stand one a lane, sorted; a token enters by one ballot and one shuffle.
#include "deny.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32, TOP = 32;

struct Ranked {
  float x;
  int token;
};
constexpr int NO_TOKEN = 2147483647;

__device__ __forceinline__ bool before(float x, int token, Ranked than) { return x > than.x || (x == than.x && token < than.token); }

__device__ __forceinline__ Ranked better(Ranked a, Ranked b) { return before(b.x, b.token, a) ? b : a; }

__device__ __forceinline__ Ranked warp_best(Ranked best) {
  for (int d = 16; d > 0; d >>= 1) {
    best = better(best, {__shfl_xor_sync(ALL_LANES, best.x, d), __shfl_xor_sync(ALL_LANES, best.token, d)});
  }
  return best;
}

// The likeliest tokens: lane l holds number l, all lanes the last one.
struct List {
  Ranked entry, last;
  __device__ static List nothing() { return {{-INFINITY, NO_TOKEN}, {-INFINITY, NO_TOKEN}}; }
  // Takes in the lanes' candidates.
  __device__ void offer(Ranked mine) {
    const int lane = threadIdx.x % 32;
    unsigned left = __ballot_sync(ALL_LANES, before(mine.x, mine.token, last));
    if (left == 0) return;
    for (; left != 0; left &= left - 1) {
      const int from = __ffs(int(left)) - 1;
      const Ranked candidate = {__shfl_sync(ALL_LANES, mine.x, from), __shfl_sync(ALL_LANES, mine.token, from)};
      const int place = __popc(__ballot_sync(ALL_LANES, before(entry.x, entry.token, candidate)));
      const Ranked above = {__shfl_up_sync(ALL_LANES, entry.x, 1), __shfl_up_sync(ALL_LANES, entry.token, 1)};
      if (lane > place) entry = above;
      if (lane == place) entry = candidate;
    }
    last = {__shfl_sync(ALL_LANES, entry.x, 31), __shfl_sync(ALL_LANES, entry.token, 31)};
  }
};

__device__ __forceinline__ void philox(unsigned c[4], unsigned k0, unsigned k1) {
  for (int i = 0; i < 10; i++) {
    const unsigned a = __umulhi(0xD2511F53u, c[0]), a_low = 0xD2511F53u * c[0];
    const unsigned b = __umulhi(0xCD9E8D57u, c[2]), b_low = 0xCD9E8D57u * c[2];
    c[0] = b ^ c[1] ^ k0, c[1] = b_low, c[2] = a ^ c[3] ^ k1, c[3] = a_low;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
}

// -ln(-ln u), u = (bits + 1/2) / 2^32; near 1 from 1 - u.
__device__ __forceinline__ float gumbel(unsigned bits) {
  constexpr float UNIT = 1.0f / 4294967296.0f;
  const float e = bits >> 31 ? -log1pf(-(float(~bits) + 0.5f) * UNIT) : -logf((float(bits) + 0.5f) * UNIT);
  return -logf(e);
}

// Noise of tokens 4 block .. 4 block + 3.
__device__ __forceinline__ void noise_bits(const unsigned* key, unsigned block, unsigned bits[4]) {
  // key: seed (2), sequence (2), position.
  bits[0] = block, bits[1] = key[4], bits[2] = key[2], bits[3] = key[3];
  philox(bits, key[0], key[1]);
}

struct Best2 {
  Ranked all, allowed;
};

// Workspace of a split: 8 numbers, the list, and 8 numbers of the support by lcg_nucleus (those of a row's first split).
constexpr int PART = 8 + TOP + 8, SUPPORT = 8 + TOP;
struct Part {
  ExpSum allowed, denied;
  Best2 best;
  int bad;
};

template <typename T>
__device__ __forceinline__ void scan(const T* logits, Vocabulary vocabulary, Overrides overrides, const unsigned* denied,
                                     const unsigned* keys, float* floats, int* ints, int width, int splits, float inv_temperature) {
  TWIN_SHARED(unsigned, bits, [CLASS_WORDS]);
  TWIN_SHARED(float, list_x, [WARPS][TOP]);
  TWIN_SHARED(int, list_token, [WARPS][TOP]);
  TWIN_SHARED(Part, parts, [WARPS]);
  const int r = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned denies_here = denied[r], *const key = keys + size_t(r) * 5;
  deny_classes(vocabulary, denies_here, bits);
  __syncthreads();  // bits are complete
  const T* const row = logits + size_t(r) * width;
  Part part = {ExpSum::nothing(), ExpSum::nothing(), {{-INFINITY, NO_TOKEN}, {-INFINITY, NO_TOKEN}}, NO_TOKEN};
  List list = List::nothing();
  // Tiles of 128 tokens, 4 a lane: one call of Philox.
  for (int tile = blockIdx.x * WARPS + warp; tile * 128 < width; tile += splits * WARPS) {
    const int start = tile * 128 + lane * 4;
    unsigned random[4];
    noise_bits(key, unsigned(start) / 4, random);
    for (int i = 0; i < 4; i++) {
      const int token = start + i;
      Ranked mine = {-INFINITY, NO_TOKEN};
      if (token < width) {
        const float z = float(row[token]);
        if (!(z < INFINITY)) part.bad = min(part.bad, token);
        else if (z > -INFINITY) {
          mine = {z, token};
          const bool gone = denies_here != 0 && denies(vocabulary, overrides, r, denies_here, bits, token);
          (gone ? part.denied : part.allowed).add(z, inv_temperature);
          const Ranked noisy = {z * inv_temperature + gumbel(random[i]), token};
          part.best.all = better(part.best.all, noisy);
          if (!gone) part.best.allowed = better(part.best.allowed, noisy);
        }
      }
      list.offer(mine);
    }
  }
  for (int d = 16; d > 0; d >>= 1) {
    part.allowed = join(part.allowed, part.allowed.down(d), inv_temperature);
    part.denied = join(part.denied, part.denied.down(d), inv_temperature);
  }
  part.best.all = warp_best(part.best.all);
  part.best.allowed = warp_best(part.best.allowed);
  part.bad = __reduce_min_sync(ALL_LANES, part.bad);
  list_x[warp][lane] = list.entry.x, list_token[warp][lane] = list.entry.token;
  if (lane == 0) parts[warp] = part;
  __syncthreads();  // lists and parts are complete
  if (warp > 0) return;
  for (int w = 1; w < WARPS; w++) {
    list.offer({list_x[w][lane], list_token[w][lane]});
    part.allowed = join(part.allowed, parts[w].allowed, inv_temperature), part.denied = join(part.denied, parts[w].denied, inv_temperature);
    part.best.all = better(part.best.all, parts[w].best.all);
    part.best.allowed = better(part.best.allowed, parts[w].best.allowed);
    part.bad = min(part.bad, parts[w].bad);
  }
  const size_t at = size_t(r) * splits + blockIdx.x;
  float* const f = floats + at * PART;
  int* const n = ints + at * PART;
  f[8 + lane] = list.entry.x, n[8 + lane] = list.entry.token;
  if (lane == 0) {
    f[0] = part.allowed.top, f[1] = part.allowed.sum, f[2] = part.denied.top, f[3] = part.denied.sum;
    f[4] = part.best.all.x, f[5] = part.best.allowed.x;
    n[0] = part.best.all.token, n[1] = part.best.allowed.token, n[2] = part.bad;
  }
}

#define SCAN(suffix, T)                                                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                              \
      lcg_scan_##suffix(const T* logits, const unsigned short* class_of, const unsigned* signatures, const int* first,               \
                        const int* tokens, const unsigned* dynamic, const unsigned* denied, const unsigned* keys, float* floats,     \
                        int* ints, int width, int classes, int splits, float inv_temperature) {                                      \
    scan(logits, {class_of, signatures, classes}, {first, tokens, dynamic}, denied, keys, floats, ints, width, splits, inv_temperature); \
  }
SCAN(f32, float)
SCAN(bf16, __nv_bfloat16)

// The rank of a token as a number, highest first: its logit's bits in the order of floats (-0 as 0), then the lower id.
constexpr int ID_BITS = 23, DIGIT = 11, BINS = 1 << DIGIT, MOST_THREADS = 1024;
typedef unsigned long long Wide;
__device__ __forceinline__ Wide rank_of(float z, int token) {
  const unsigned bits = __float_as_uint(z + 0.0f), ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return Wide(ordered) << ID_BITS | ((1u << ID_BITS) - 1u - unsigned(token));
}

constexpr float UNITS = 1099511627776.0f;  // 2^40; 2^23 tokens fit
__device__ __forceinline__ Wide mass_of(float z, float top, float inv_temperature) {
  return Wide(expf((z - top) * inv_temperature) * UNITS);
}

// Bins are spread so that lanes which read 64 each meet in no bank.
__device__ __forceinline__ int slot(int bin) { return bin + bin / 64; }
constexpr int SLOTS = BINS + BINS / 64;

// What lies above a bin, and the digits found so far.
struct Cut {
  Wide last, mass;
  int count, whole;
};

// Writes the sums, the best scores and the number of tokens of S(top_k, top_p) behind the list of the row's first split.
template <typename T>
__device__ __forceinline__ void nucleus(const T* logits, Vocabulary vocabulary, Overrides overrides, const unsigned* denied,
                                        const unsigned* keys, float* floats, int* ints, int width, int splits, float inv_temperature,
                                        int top_k, float top_p) {
  TWIN_SHARED(Wide, mass, [SLOTS]);
  TWIN_SHARED(int, count, [SLOTS]);
  TWIN_SHARED(unsigned, bits, [CLASS_WORDS]);
  TWIN_SHARED(Cut, cut, [1]);
  TWIN_SHARED(Best2, best_of, [MOST_THREADS / 32]);
  TWIN_SHARED(Wide, mass_allowed, [MOST_THREADS / 32]);
  TWIN_SHARED(Wide, mass_denied, [MOST_THREADS / 32]);
  const int r = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32, threads = blockDim.x;
  const unsigned denies_here = denied[r], *const key = keys + size_t(r) * 5;
  float* const f = floats + size_t(r) * splits * PART;
  int* const n = ints + size_t(r) * splits * PART;
  float top_allowed = -INFINITY, top_denied = -INFINITY;
  int bad = NO_TOKEN;
  for (int s = 0; s < splits; s++) {
    top_allowed = fmaxf(top_allowed, f[s * PART]), top_denied = fmaxf(top_denied, f[s * PART + 2]);
    bad = min(bad, n[s * PART + 2]);
  }
  const float top = fmaxf(top_allowed, top_denied);
  if (bad != NO_TOKEN || top == -INFINITY) return;  // lcg_draw says so
  deny_classes(vocabulary, denies_here, bits);
  const T* const row = logits + size_t(r) * width;

  // Digit by digit, the rank of the last token that stays: the first at which the count is top_k or the mass reaches top_p.
  Cut found = {0, 0, 0, 0};
  Wide limit = ~Wide(0);
  const int most = top_k > 0 ? top_k : NO_TOKEN;
  for (int shift = ID_BITS + 32 - DIGIT; !found.whole; shift -= DIGIT) {
    for (int b = threadIdx.x; b < SLOTS; b += threads) mass[b] = 0, count[b] = 0;
    __syncthreads();  // bins are empty
    for (int token = threadIdx.x; token < width; token += threads) {
      const float z = float(row[token]);
      const Wide rank = rank_of(z, token);
      if (!(z > -INFINITY) || rank >> (shift + DIGIT) != found.last >> (shift + DIGIT)) continue;
      const int at = slot(int(rank >> shift) & (BINS - 1));
      atomicAdd(&mass[at], mass_of(z, top, inv_temperature));
      atomicAdd(&count[at], 1);
    }
    __syncthreads();  // bins are complete
    if (warp == 0) {
      // Lane l has the l-th 64 bins from above.
      Wide m = 0;
      int c = 0;
      for (int b = 0; b < 64; b++) m += mass[slot(BINS - 1 - 64 * lane - b)], c += count[slot(BINS - 1 - 64 * lane - b)];
      const Wide own_mass = m;
      const int own_count = c;
      for (int d = 1; d < 32; d <<= 1) {
        const Wide lower_mass = __shfl_up_sync(ALL_LANES, m, d);
        const int lower_count = __shfl_up_sync(ALL_LANES, c, d);
        if (lane >= d) m += lower_mass, c += lower_count;
      }
      const Wide total = __shfl_sync(ALL_LANES, m, 31);
      const int tokens = __shfl_sync(ALL_LANES, c, 31);
      if (shift == ID_BITS + 32 - DIGIT && top_p < 1.0f) limit = Wide(ceil(double(top_p) * double(total)));
      const unsigned reached = __ballot_sync(ALL_LANES, found.count + c >= most || found.mass + m >= limit);
      if (reached == 0) {
        if (lane == 0) cut[0] = {0, 0, tokens, 1};  // all stay
      } else if (lane == __ffs(int(reached)) - 1) {
        Cut next = {found.last, found.mass + m - own_mass, found.count + c - own_count, 0};
        int b = BINS - 1 - 64 * lane;
        while (next.count + count[slot(b)] < most && next.mass + mass[slot(b)] < limit) {
          next.count += count[slot(b)], next.mass += mass[slot(b)];
          b--;
        }
        next.last |= Wide(b) << shift;
        if (count[slot(b)] == 1) next.count++, next.whole = 1;
        cut[0] = next;
      }
    }
    __syncthreads();  // the bin of the last token is known
    found = cut[0];
  }

  // The draw, four tokens to a call of Philox.
  Best2 best = {{-INFINITY, NO_TOKEN}, {-INFINITY, NO_TOKEN}};
  Wide allowed_here = 0, denied_here = 0;
  for (int start = threadIdx.x * 4; start < width; start += threads * 4) {
    unsigned random[4];
    bool drawn = false;
    for (int token = start; token < min(start + 4, width); token++) {
      const float z = float(row[token]);
      if (!(z > -INFINITY) || rank_of(z, token) < found.last) continue;
      if (!drawn) noise_bits(key, unsigned(start) / 4, random);
      drawn = true;
      const bool gone = denies_here != 0 && denies(vocabulary, overrides, r, denies_here, bits, token);
      const Ranked noisy = {z * inv_temperature + gumbel(random[token - start]), token};
      best.all = better(best.all, noisy);
      if (gone) denied_here += mass_of(z, top_denied, inv_temperature);
      else allowed_here += mass_of(z, top_allowed, inv_temperature), best.allowed = better(best.allowed, noisy);
    }
  }
  for (int d = 16; d > 0; d >>= 1) {
    allowed_here += __shfl_xor_sync(ALL_LANES, allowed_here, d), denied_here += __shfl_xor_sync(ALL_LANES, denied_here, d);
  }
  best.all = warp_best(best.all), best.allowed = warp_best(best.allowed);
  if (lane == 0) best_of[warp] = best, mass_allowed[warp] = allowed_here, mass_denied[warp] = denied_here;
  __syncthreads();  // the sums of warps are complete
  if (threadIdx.x > 0) return;
  for (int w = 1; w < threads / 32; w++) {
    best.all = better(best.all, best_of[w].all), best.allowed = better(best.allowed, best_of[w].allowed);
    allowed_here += mass_allowed[w], denied_here += mass_denied[w];
  }
  f[SUPPORT] = top_allowed, f[SUPPORT + 1] = float(allowed_here) / UNITS;
  f[SUPPORT + 2] = top_denied, f[SUPPORT + 3] = float(denied_here) / UNITS;
  f[SUPPORT + 4] = best.all.x, f[SUPPORT + 5] = best.allowed.x;
  n[SUPPORT] = best.all.token, n[SUPPORT + 1] = best.allowed.token, n[SUPPORT + 2] = found.count;
}

#define NUCLEUS(suffix, T)                                                                                                           \
  extern "C" __global__ void __launch_bounds__(MOST_THREADS)                                                                         \
      lcg_nucleus_##suffix(const T* logits, const unsigned short* class_of, const unsigned* signatures, const int* first,            \
                           const int* tokens, const unsigned* dynamic, const unsigned* denied, const unsigned* keys, float* floats,  \
                           int* ints, int width, int classes, int splits, float inv_temperature, int top_k, float top_p) {           \
    nucleus(logits, {class_of, signatures, classes}, {first, tokens, dynamic}, denied, keys, floats, ints, width, splits,            \
            inv_temperature, top_k, top_p);                                                                                          \
  }
NUCLEUS(f32, float)
NUCLEUS(bf16, __nv_bfloat16)

enum Decision { PLANNED, NO_EFFECT, CONTRADICTED, INTERVENE, WIDENED };

// How many ranks S(k, p) keeps, given the log-probability of rank `lane`; k of at most 32.
__device__ __forceinline__ int keep(float log_p, int k, float p) {
  const int lane = threadIdx.x % 32;
  const bool finite = log_p > -INFINITY;
  float sum = finite ? expf(log_p) : 0.0f;
  for (int d = 1; d < 32; d <<= 1) {
    const float other = __shfl_up_sync(ALL_LANES, sum, d);
    if (lane >= d) sum += other;
  }
  const float mass_before = __shfl_up_sync(ALL_LANES, sum, 1);
  const bool kept = finite && lane < k && (lane == 0 || p >= 1.0f || mass_before < p);
  return __popc(__ballot_sync(ALL_LANES, kept));
}

// out_ints[r] = {token, decision, 1 if the ungated draw was denied, first bad token or -1, or -2 for no finite logit}
// out_floats[r] = {logprob, denied mass}
// top_k 0: all tokens; -1: those that lcg_nucleus found; greedy: the likeliest survivor, without noise.
template <typename T>
__device__ __forceinline__ void draw(const T* logits, const float* floats, const int* ints, Vocabulary vocabulary, Overrides overrides,
                                     const unsigned* denied, const unsigned* predicted, const unsigned* keys, int* out_ints,
                                     float* out_floats, int width, int splits, float inv_temperature, int top_k, float top_p,
                                     int greedy, int always, unsigned symbols) {
  const int r = blockIdx.x, lane = threadIdx.x;
  const unsigned denies_here = denied[r];
  Part all = {ExpSum::nothing(), ExpSum::nothing(), {{-INFINITY, NO_TOKEN}, {-INFINITY, NO_TOKEN}}, NO_TOKEN};
  List list = List::nothing();
  for (int s = 0; s < splits; s++) {
    const float* const f = floats + (size_t(r) * splits + s) * PART;
    const int* const n = ints + (size_t(r) * splits + s) * PART;
    list.offer({f[8 + lane], n[8 + lane]});
    all.allowed = join(all.allowed, {f[0], f[1]}, inv_temperature), all.denied = join(all.denied, {f[2], f[3]}, inv_temperature);
    all.best.all = better(all.best.all, {f[4], n[0]}), all.best.allowed = better(all.best.allowed, {f[5], n[1]});
    all.bad = min(all.bad, n[2]);
  }
  const Ranked entry = list.entry;
  int* const oi = out_ints + size_t(r) * 4;
  float* const of = out_floats + size_t(r) * 2;
  const ExpSum whole = join(all.allowed, all.denied, inv_temperature);
  if (all.bad != NO_TOKEN || whole.sum == 0.0f) {
    if (lane == 0) oi[0] = oi[1] = oi[2] = 0, oi[3] = all.bad != NO_TOKEN ? all.bad : -2, of[0] = of[1] = 0.0f;
    return;
  }
  const bool there = entry.token != NO_TOKEN;
  const float log_p = there ? whole.log_prob(entry.x, inv_temperature) : -INFINITY;
  const int high = max(keep(log_p, 5, 0.999f), keep(log_p, 20, 0.95f));
  bool listed = greedy || top_k > 0;
  int user = greedy ? 1 : keep(log_p, listed ? top_k : 1, top_p);
  if (top_k < 0) {
    const float* const f = floats + size_t(r) * splits * PART + SUPPORT;
    const int* const n = ints + size_t(r) * splits * PART + SUPPORT;
    // What the list does not hold has more tokens than any support of high confidence: nothing is to be joined with it.
    listed = n[2] <= TOP, user = min(n[2], TOP);
    all = {{f[0], f[1]}, {f[2], f[3]}, {{f[4], n[0]}, {f[5], n[1]}}, NO_TOKEN};
  }
  const ExpSum of_user = join(all.allowed, all.denied, inv_temperature);
  uint2 s = {0u, 0u};
  if (there) s = signature(vocabulary, overrides, r, entry.token);
  const bool gone = there && is_denied(s.x, s.y, denies_here);
  const unsigned families = (s.x | s.y) != 0 ? s.x | s.y : symbols;

  const unsigned gone_mask = __ballot_sync(ALL_LANES, gone);
  const unsigned user_mask = user == 32 ? ALL_LANES : (1u << user) - 1u;
  const bool effect = listed ? (gone_mask & user_mask) != 0 : all.denied.sum > 0.0f;
  const bool survives = !listed || (~gone_mask & user_mask) != 0;
  const bool target = __any_sync(ALL_LANES, lane < high && (families & predicted[r]) != 0 && !gone);
  int decision = PLANNED;
  if (denies_here != 0) decision = !effect ? NO_EFFECT : !target ? CONTRADICTED : always || !survives ? WIDENED : INTERVENE;
  const bool intervenes = decision >= INTERVENE;

  Ranked drawn = intervenes ? all.best.allowed : all.best.all, ungated = all.best.all;
  ExpSum support = intervenes ? all.allowed : of_user;
  float lost = all.denied.sum > 0.0f ? expf(of_user.log_prob(all.denied.top, inv_temperature) + logf(all.denied.sum)) : 0.0f;
  bool ungated_gone = false;
  if (listed) {
    unsigned random[4];
    noise_bits(keys + size_t(r) * 5, there ? unsigned(entry.token) / 4 : 0u, random);
    const int place = entry.token % 4;
    const unsigned mine = place == 0 ? random[0] : place == 1 ? random[1] : place == 2 ? random[2] : random[3];
    const float score = !there ? -INFINITY : greedy ? entry.x : entry.x * inv_temperature + gumbel(mine);
    const int count = decision == WIDENED ? max(user, high) : user;
    const bool in_user = there && lane < user, in_support = there && lane < count && !(intervenes && gone);
    ungated = warp_best(in_user ? Ranked{score, entry.token} : Ranked{-INFINITY, NO_TOKEN});
    drawn = warp_best(in_support ? Ranked{score, entry.token} : Ranked{-INFINITY, NO_TOKEN});
    // Sums over at most 32 tokens, relative to the row's top.
    const float weight = there ? expf((entry.x - whole.top) * inv_temperature) : 0.0f;
    float kept = in_support ? weight : 0.0f, users = in_user ? weight : 0.0f;
    float of_gone = in_user && gone ? weight : 0.0f;
    for (int d = 16; d > 0; d >>= 1) {
      kept += __shfl_xor_sync(ALL_LANES, kept, d);
      users += __shfl_xor_sync(ALL_LANES, users, d);
      of_gone += __shfl_xor_sync(ALL_LANES, of_gone, d);
    }
    support = {whole.top, kept};
    lost = of_gone / users;
  }
  ungated_gone = __any_sync(ALL_LANES, there && entry.token == ungated.token && gone);
  if (!listed) {
    const uint2 u = signature(vocabulary, overrides, r, ungated.token);
    ungated_gone = is_denied(u.x, u.y, denies_here);
  }
  if (lane == 0) {
    // Its score less its noise would have lost digits.
    const float z = float(logits[size_t(r) * width + drawn.token]);
    oi[0] = drawn.token, oi[1] = decision, oi[2] = intervenes && ungated_gone ? 1 : 0, oi[3] = -1;
    of[0] = greedy ? 0.0f : support.log_prob(z, inv_temperature);
    of[1] = intervenes ? lost : 0.0f;
  }
}

#define DRAW(suffix, T)                                                                                                              \
  extern "C" __global__ void __launch_bounds__(32)                                                                                   \
      lcg_draw_##suffix(const T* logits, const float* floats, const int* ints, const unsigned short* class_of,                       \
                        const unsigned* signatures, const int* first, const int* tokens, const unsigned* dynamic,                    \
                        const unsigned* denied, const unsigned* predicted, const unsigned* keys, int* out_ints, float* out_floats,   \
                        int width, int classes, int splits, float inv_temperature, int top_k, float top_p, int greedy, int always,   \
                        unsigned symbols) {                                                                                          \
    draw(logits, floats, ints, {class_of, signatures, classes}, {first, tokens, dynamic}, denied, predicted, keys, out_ints,         \
         out_floats, width, splits, inv_temperature, top_k, top_p, greedy, always, symbols);                                         \
  }
DRAW(f32, float)
DRAW(bf16, __nv_bfloat16)
