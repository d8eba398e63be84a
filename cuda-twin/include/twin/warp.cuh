// Warp operations. All are one exchange: every named lane gives some bytes and sees what the others gave.
#pragma once

namespace twin {
template <class T, class... U> constexpr bool one_of = (std::is_same_v<T, U> || ...);
template <class T> constexpr bool shuffles =
    one_of<T, int, unsigned, long, unsigned long, long long, unsigned long long, float, double, __half, __half2,
           __nv_bfloat16, __nv_bfloat162>;

template <class T> TWIN_RAW T given(const Gathered* all, unsigned lane) {
  T value;
  __builtin_memcpy(&value, all->bytes + lane * sizeof(T), sizeof(T));
  return value;
}
template <class T> TWIN_RAW T fetch(unsigned mask, T value, unsigned source, const char* file, int line) {
  static_assert(shuffles<T>, "CUDA has no shuffle for this type");
  const Gathered* all = gather(mask, &value, sizeof(T), file, line);
  if (source > 31 || !(all->lanes >> source & 1)) {
    char what[80];
    snprintf(what, sizeof what, "shuffle reads lane %u, which does not take part (mask 0x%x)", source, mask);
    fail(LANE, what, file, line);
  }
  return given<T>(all, source);
}
TWIN_RAW unsigned ballot(unsigned mask, bool p, const char* file, int line) {
  const unsigned char vote = p;
  const Gathered* all = gather(mask, &vote, 1, file, line);
  unsigned r = 0;
  for (unsigned i = 0; i < 32; i++) {
    if (all->lanes >> i & 1) r |= unsigned(all->bytes[i]) << i;
  }
  return r;
}
template <class T, class F> TWIN_RAW T reduce(unsigned mask, T value, F f, const char* file, int line) {
  const Gathered* all = gather(mask, &value, sizeof(T), file, line);
  bool first = true;
  for (unsigned i = 0; i < 32; i++) {
    if (!(all->lanes >> i & 1)) continue;
    const T other = given<T>(all, i);
    value = first ? other : f(value, other);
    first = false;
  }
  return value;
}
template <class T> TWIN_RAW unsigned match(unsigned mask, T value, const char* file, int line) {
  const Gathered* all = gather(mask, &value, sizeof(T), file, line);
  unsigned r = 0;
  for (unsigned i = 0; i < 32; i++) {
    if (all->lanes >> i & 1) r |= unsigned(given<T>(all, i) == value) << i;
  }
  return r;
}
}  // namespace twin

TWIN_INLINE void __syncwarp(unsigned mask = ~0u, TWIN_HERE) { twin::gather(mask, nullptr, 0, file, line); }
template <class T> TWIN_INLINE T __shfl_sync(unsigned mask, T v, int source, int width = 32, TWIN_HERE) {
  return twin::fetch(mask, v, (twin::lane() & ~unsigned(width - 1)) | (unsigned(source) & unsigned(width - 1)), file, line);
}
// A lane whose source would lie outside its segment of `width` lanes gets its own value.
template <class T> TWIN_INLINE T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, TWIN_HERE) {
  const unsigned l = twin::lane(), position = l & unsigned(width - 1);
  return twin::fetch(mask, v, delta <= position ? l - delta : l, file, line);
}
template <class T> TWIN_INLINE T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, TWIN_HERE) {
  const unsigned l = twin::lane(), last = l | unsigned(width - 1);
  return twin::fetch(mask, v, delta <= last - l ? l + delta : l, file, line);
}
template <class T> TWIN_INLINE T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, TWIN_HERE) {
  const unsigned l = twin::lane(), s = l ^ unsigned(x);
  return twin::fetch(mask, v, s > (l | unsigned(width - 1)) ? l : s, file, line);
}
TWIN_INLINE unsigned __ballot_sync(unsigned mask, int p, TWIN_HERE) { return twin::ballot(mask, p != 0, file, line); }
TWIN_INLINE int __any_sync(unsigned mask, int p, TWIN_HERE) { return twin::ballot(mask, p != 0, file, line) != 0; }
TWIN_INLINE int __all_sync(unsigned mask, int p, TWIN_HERE) { return twin::ballot(mask, p == 0, file, line) == 0; }
template <class T> TWIN_INLINE unsigned __match_any_sync(unsigned mask, T v, TWIN_HERE) {
  return twin::match(mask, v, file, line);
}
#define TWIN_REDUCE(name, T, expression)                                              \
  TWIN_INLINE T name(unsigned mask, T v, TWIN_HERE) {                                 \
    return twin::reduce(mask, v, [](T a, T b) TWIN_UNSEEN -> T { return expression; }, file, line); \
  }
TWIN_REDUCE(__reduce_add_sync, unsigned, a + b)
TWIN_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
TWIN_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
TWIN_REDUCE(__reduce_add_sync, int, int(unsigned(a) + unsigned(b)))
TWIN_REDUCE(__reduce_min_sync, int, a < b ? a : b)
TWIN_REDUCE(__reduce_max_sync, int, a > b ? a : b)
TWIN_REDUCE(__reduce_and_sync, unsigned, a & b)
TWIN_REDUCE(__reduce_or_sync, unsigned, a | b)
TWIN_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef TWIN_REDUCE
