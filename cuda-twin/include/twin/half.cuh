// __half and __nv_bfloat16 and their pairs: conversions round to nearest, ties to even; arithmetic is done in f32 and
// rounded once, as the hardware's is.
#pragma once

struct __half_raw { unsigned short x; };
struct __nv_bfloat16_raw { unsigned short x; };

namespace twin {
TWIN_INLINE uint32_t bits(float f) { return __builtin_bit_cast(uint32_t, f); }
TWIN_INLINE float real(uint32_t u) { return __builtin_bit_cast(float, u); }

struct Bfloat16 {
  typedef __nv_bfloat16_raw Raw;
  static TWIN_RAW uint16_t narrow(float f) {
    const uint32_t u = bits(f);
    return f != f ? 0x7fff : uint16_t((u + 0x7fffu + (u >> 16 & 1)) >> 16);
  }
  static TWIN_INLINE float widen(uint16_t b) { return real(uint32_t(b) << 16); }
};

struct Half {
  typedef __half_raw Raw;
  static TWIN_RAW uint16_t narrow(float f) {
    const uint32_t sign = bits(f) >> 16 & 0x8000, u = bits(f) & 0x7fffffff;
    if (u > 0x7f800000) return 0x7fff;
    if (u >= 0x477ff000) return uint16_t(sign | 0x7c00);  // 65520 and above round to infinity
    if (u < 0x38800000) {                                 // subnormal: the addition rounds to a multiple of 2^-24
      return uint16_t(sign | (bits(real(u) + 0.5f) - bits(0.5f)));
    }
    return uint16_t(sign | ((u - 0x38000000u + 0xfffu + (u >> 13 & 1)) >> 13));
  }
  static TWIN_RAW float widen(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, u = h & 0x7fff;
    if (u >= 0x7c00) return real(sign | 0x7f800000 | u << 13);
    if (u < 0x0400) {
      const float magnitude = float(u) * 0x1p-24f;
      return h & 0x8000 ? -magnitude : magnitude;
    }
    return real(sign | ((u << 13) + 0x38000000u));
  }
};

// A 16-bit float in memory; the constructor and the conversion are inlined so that reports name the kernel's line.
template <class Format> struct Small {
  uint16_t raw;
  Small() = default;
  TWIN_INLINE Small(float f) : raw(Format::narrow(f)) {}
  TWIN_INLINE Small(double d) : raw(Format::narrow(float(d))) {}
  TWIN_INLINE Small(int i) : raw(Format::narrow(float(i))) {}
  TWIN_INLINE Small(unsigned i) : raw(Format::narrow(float(i))) {}
  TWIN_INLINE Small(typename Format::Raw r) : raw(r.x) {}
  TWIN_INLINE operator float() const { return Format::widen(raw); }
};
#define TWIN_ARITHMETIC(op)                                                                                  \
  template <class F> TWIN_INLINE Small<F> operator op(Small<F> a, Small<F> b) {                              \
    return Small<F>(float(a) op float(b));                                                                   \
  }                                                                                                          \
  template <class F> TWIN_INLINE Small<F>& operator op##=(Small<F>& a, Small<F> b) { return a = a op b; }
TWIN_ARITHMETIC(+)
TWIN_ARITHMETIC(-)
TWIN_ARITHMETIC(*)
TWIN_ARITHMETIC(/)
#undef TWIN_ARITHMETIC
template <class F> TWIN_INLINE Small<F> operator-(Small<F> a) { return Small<F>(-float(a)); }

template <class S> struct alignas(4) Pair {
  S x, y;
  Pair() = default;
  TWIN_INLINE Pair(S x, S y) : x(x), y(y) {}
};
template <class S> TWIN_INLINE Pair<S> operator+(Pair<S> a, Pair<S> b) { return {a.x + b.x, a.y + b.y}; }
template <class S> TWIN_INLINE Pair<S> operator-(Pair<S> a, Pair<S> b) { return {a.x - b.x, a.y - b.y}; }
template <class S> TWIN_INLINE Pair<S> operator*(Pair<S> a, Pair<S> b) { return {a.x * b.x, a.y * b.y}; }
}  // namespace twin

typedef twin::Small<twin::Bfloat16> __nv_bfloat16;
typedef twin::Small<twin::Half> __half;
typedef twin::Pair<__nv_bfloat16> __nv_bfloat162;
typedef twin::Pair<__half> __half2;
typedef __half half;
typedef __half2 half2;
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

TWIN_INLINE __half __float2half(float f) { return __half(f); }
TWIN_INLINE __half __float2half_rn(float f) { return __half(f); }
TWIN_INLINE float __half2float(__half h) { return float(h); }
TWIN_INLINE __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
TWIN_INLINE __half2 __float22half2_rn(float2 f) { return {__half(f.x), __half(f.y)}; }
TWIN_INLINE __half2 __float2half2_rn(float f) { return {__half(f), __half(f)}; }
TWIN_INLINE float2 __half22float2(__half2 h) { return {float(h.x), float(h.y)}; }
TWIN_INLINE __half2 __halves2half2(__half x, __half y) { return {x, y}; }
TWIN_INLINE __half2 __half2half2(__half h) { return {h, h}; }
TWIN_INLINE __half2 make_half2(__half x, __half y) { return {x, y}; }
TWIN_INLINE unsigned short __half_as_ushort(__half h) { return __builtin_bit_cast(unsigned short, h); }
TWIN_INLINE __half __ushort_as_half(unsigned short u) { return __builtin_bit_cast(__half, u); }

TWIN_INLINE __nv_bfloat16 __float2bfloat16(float f) { return __nv_bfloat16(f); }
TWIN_INLINE __nv_bfloat16 __float2bfloat16_rn(float f) { return __nv_bfloat16(f); }
TWIN_INLINE float __bfloat162float(__nv_bfloat16 b) { return float(b); }
TWIN_INLINE __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
TWIN_INLINE __nv_bfloat162 __float22bfloat162_rn(float2 f) { return {__nv_bfloat16(f.x), __nv_bfloat16(f.y)}; }
TWIN_INLINE __nv_bfloat162 __float2bfloat162_rn(float f) { return {__nv_bfloat16(f), __nv_bfloat16(f)}; }
TWIN_INLINE float2 __bfloat1622float2(__nv_bfloat162 b) { return {float(b.x), float(b.y)}; }
TWIN_INLINE __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
TWIN_INLINE __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 b) { return {b, b}; }
TWIN_INLINE __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
TWIN_INLINE unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return __builtin_bit_cast(unsigned short, b); }
TWIN_INLINE __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) { return __builtin_bit_cast(__nv_bfloat16, u); }

namespace twin {
template <class F> TWIN_INLINE Small<F> fused(Small<F> a, Small<F> b, Small<F> c) {
  return Small<F>(__builtin_fmaf(float(a), float(b), float(c)));
}
}  // namespace twin
#define TWIN_BOTH(S, P)                                                                                    \
  TWIN_INLINE S __hadd(S a, S b) { return a + b; }                                                         \
  TWIN_INLINE S __hsub(S a, S b) { return a - b; }                                                         \
  TWIN_INLINE S __hmul(S a, S b) { return a * b; }                                                         \
  TWIN_INLINE S __hdiv(S a, S b) { return a / b; }                                                         \
  TWIN_INLINE S __hneg(S a) { return -a; }                                                                 \
  TWIN_INLINE S __hfma(S a, S b, S c) { return twin::fused(a, b, c); }                                     \
  TWIN_INLINE S __hmax(S a, S b) { return S(__builtin_fmaxf(float(a), float(b))); }                        \
  TWIN_INLINE S __hmin(S a, S b) { return S(__builtin_fminf(float(a), float(b))); }                        \
  TWIN_INLINE S __habs(S a) { return S(__builtin_fabsf(float(a))); }                                       \
  TWIN_INLINE bool __hisnan(S a) { return float(a) != float(a); }                                          \
  TWIN_INLINE bool __heq(S a, S b) { return float(a) == float(b); }                                        \
  TWIN_INLINE bool __hlt(S a, S b) { return float(a) < float(b); }                                         \
  TWIN_INLINE bool __hgt(S a, S b) { return float(a) > float(b); }                                         \
  TWIN_INLINE P __hadd2(P a, P b) { return {a.x + b.x, a.y + b.y}; }                                       \
  TWIN_INLINE P __hsub2(P a, P b) { return {a.x - b.x, a.y - b.y}; }                                       \
  TWIN_INLINE P __hmul2(P a, P b) { return {a.x * b.x, a.y * b.y}; }                                       \
  TWIN_INLINE P __hfma2(P a, P b, P c) { return {twin::fused(a.x, b.x, c.x), twin::fused(a.y, b.y, c.y)}; } \
  TWIN_INLINE P __hmax2(P a, P b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }                         \
  TWIN_INLINE P __hmin2(P a, P b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }                         \
  TWIN_INLINE S __low2##S(P p) { return p.x; }                                                             \
  TWIN_INLINE float __low2float(P p) { return float(p.x); }                                                \
  TWIN_INLINE float __high2float(P p) { return float(p.y); }
#define __low2__half __low2half
#define __low2__nv_bfloat16 __low2bfloat16
TWIN_BOTH(__half, __half2)
TWIN_BOTH(__nv_bfloat16, __nv_bfloat162)
#undef __low2__half
#undef __low2__nv_bfloat16
#undef TWIN_BOTH
TWIN_INLINE __half __high2half(__half2 p) { return p.y; }
TWIN_INLINE __nv_bfloat16 __high2bfloat16(__nv_bfloat162 p) { return p.y; }
