// CUDA's arithmetic and bit functions. The fast ones (__expf, __fdividef, ...) are the exact ones here.
#pragma once

TWIN_INLINE int min(int a, int b) { return a < b ? a : b; }
TWIN_INLINE int max(int a, int b) { return a > b ? a : b; }
TWIN_INLINE unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
TWIN_INLINE unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
TWIN_INLINE long min(long a, long b) { return a < b ? a : b; }
TWIN_INLINE long max(long a, long b) { return a > b ? a : b; }
TWIN_INLINE unsigned long min(unsigned long a, unsigned long b) { return a < b ? a : b; }
TWIN_INLINE unsigned long max(unsigned long a, unsigned long b) { return a > b ? a : b; }
TWIN_INLINE long long min(long long a, long long b) { return a < b ? a : b; }
TWIN_INLINE long long max(long long a, long long b) { return a > b ? a : b; }
TWIN_INLINE unsigned long long min(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
TWIN_INLINE unsigned long long max(unsigned long long a, unsigned long long b) { return a > b ? a : b; }
TWIN_INLINE float min(float a, float b) { return __builtin_fminf(a, b); }
TWIN_INLINE float max(float a, float b) { return __builtin_fmaxf(a, b); }
TWIN_INLINE double min(double a, double b) { return __builtin_fmin(a, b); }
TWIN_INLINE double max(double a, double b) { return __builtin_fmax(a, b); }

TWIN_INLINE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
TWIN_INLINE double rsqrt(double x) { return 1.0 / sqrt(x); }
TWIN_INLINE float __expf(float x) { return expf(x); }
TWIN_INLINE float __exp10f(float x) { return powf(10.0f, x); }
TWIN_INLINE float __logf(float x) { return logf(x); }
TWIN_INLINE float __log2f(float x) { return log2f(x); }
TWIN_INLINE float __log10f(float x) { return log10f(x); }
TWIN_INLINE float __powf(float x, float y) { return powf(x, y); }
TWIN_INLINE float __sinf(float x) { return sinf(x); }
TWIN_INLINE float __cosf(float x) { return cosf(x); }
TWIN_INLINE float __tanf(float x) { return tanf(x); }
TWIN_INLINE void __sincosf(float x, float* s, float* c) { *s = sinf(x), *c = cosf(x); }
TWIN_INLINE void sincospif(float x, float* s, float* c) {
  *s = float(sin(M_PI * x)), *c = float(cos(M_PI * x));
}
TWIN_INLINE float __fdividef(float a, float b) { return a / b; }
TWIN_INLINE float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
TWIN_INLINE float __frcp_rn(float x) { return 1.0f / x; }
TWIN_INLINE float __fsqrt_rn(float x) { return sqrtf(x); }
TWIN_INLINE float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
TWIN_INLINE float __fadd_rn(float a, float b) { return a + b; }
TWIN_INLINE float __fsub_rn(float a, float b) { return a - b; }
TWIN_INLINE float __fmul_rn(float a, float b) { return a * b; }
TWIN_INLINE float __fdiv_rn(float a, float b) { return a / b; }
TWIN_INLINE float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
TWIN_INLINE double __dadd_rn(double a, double b) { return a + b; }
TWIN_INLINE double __dmul_rn(double a, double b) { return a * b; }
TWIN_INLINE double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }

// Conversions to integers saturate on the GPU; NaN gives 0.
namespace twin {
template <class T> TWIN_INLINE T saturate(double x) {
  constexpr T low = std::is_signed_v<T> ? T(T(1) << (sizeof(T) * 8 - 1)) : T(0), high = T(~low);
  return x != x ? T(0) : x <= double(low) ? low : x >= double(high) ? high : T(x);
}
}  // namespace twin
TWIN_INLINE int __float2int_rn(float x) { return twin::saturate<int>(rintf(x)); }
TWIN_INLINE int __float2int_rz(float x) { return twin::saturate<int>(truncf(x)); }
TWIN_INLINE int __float2int_rd(float x) { return twin::saturate<int>(floorf(x)); }
TWIN_INLINE int __float2int_ru(float x) { return twin::saturate<int>(ceilf(x)); }
TWIN_INLINE unsigned __float2uint_rn(float x) { return twin::saturate<unsigned>(rintf(x)); }
TWIN_INLINE unsigned __float2uint_rz(float x) { return twin::saturate<unsigned>(truncf(x)); }
TWIN_INLINE long long __float2ll_rn(float x) { return twin::saturate<long long>(rintf(x)); }
TWIN_INLINE float __int2float_rn(int x) { return float(x); }
TWIN_INLINE float __uint2float_rn(unsigned x) { return float(x); }
TWIN_INLINE float __ll2float_rn(long long x) { return float(x); }
TWIN_INLINE float __ull2float_rn(unsigned long long x) { return float(x); }
TWIN_INLINE float __double2float_rn(double x) { return float(x); }

TWIN_INLINE int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
TWIN_INLINE unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
TWIN_INLINE float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
TWIN_INLINE float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
TWIN_INLINE long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
TWIN_INLINE double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }

TWIN_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
TWIN_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
TWIN_INLINE int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
TWIN_INLINE int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
TWIN_INLINE int __ffs(int x) { return __builtin_ffs(x); }
TWIN_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
TWIN_INLINE unsigned __brev(unsigned x) {
  x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
  x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
  x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
  return __builtin_bswap32(x);
}
TWIN_INLINE unsigned long long __brevll(unsigned long long x) {
  return (unsigned long long)__brev(unsigned(x)) << 32 | __brev(unsigned(x >> 32));
}
TWIN_INLINE unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  const unsigned long long v = (unsigned long long)b << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) {
    const unsigned k = s >> (4 * i), byte = unsigned(v >> (8 * (k & 7))) & 0xff;
    r |= (k & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << (8 * i);
  }
  return r;
}
TWIN_INLINE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n) {
  return unsigned(((unsigned long long)high << 32 | low) << (n & 31) >> 32);
}
TWIN_INLINE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n) {
  return unsigned(((unsigned long long)high << 32 | low) >> (n & 31));
}
TWIN_INLINE int __mul24(int a, int b) { return int((long long)(a << 8 >> 8) * (b << 8 >> 8)); }
TWIN_INLINE int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
TWIN_INLINE unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
TWIN_INLINE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
TWIN_INLINE int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += int((signed char)(a >> i)) * int((signed char)(b >> i));
  return c;
}

// Loads and stores with a cache hint are plain ones.
#define TWIN_LOAD(name) \
  template <class T> TWIN_INLINE T name(const T* p) { return *p; }
#define TWIN_STORE(name) \
  template <class T> TWIN_INLINE void name(T* p, std::common_type_t<T> v) { *p = v; }
TWIN_LOAD(__ldg) TWIN_LOAD(__ldca) TWIN_LOAD(__ldcg) TWIN_LOAD(__ldcs) TWIN_LOAD(__ldlu)
TWIN_STORE(__stwb) TWIN_STORE(__stcg) TWIN_STORE(__stcs) TWIN_STORE(__stwt)
#undef TWIN_LOAD
#undef TWIN_STORE
