// The two 8-bit floats of OCP's "OFP8" as cuda_fp8.h has them: e4m3 (no infinity, largest 448) and e5m2 (largest 57344).
// The classes saturate, as CUDA's do.
#pragma once

typedef unsigned char __nv_fp8_storage_t;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

namespace twin {
struct Fp8 {
  int mantissa, bias, largest, overflow;  // bits, -, code of the largest finite value, code that overflow gives
};
constexpr Fp8 E4M3 = {3, 7, 0x7e, 0x7f}, E5M2 = {2, 15, 0x7b, 0x7c};

TWIN_RAW unsigned char fp8_narrow(float f, const Fp8& format, bool saturate) {
  const unsigned sign = bits(f) >> 24 & 0x80;
  const float a = __builtin_fabsf(f);
  if (f != f) return 0x7f;
  if (a == 0) return (unsigned char)sign;
  int code = format.largest + 1;
  if (a < 0x1p20f) {
    int exponent = ilogbf(a);
    if (exponent < 1 - format.bias) exponent = 1 - format.bias;  // subnormal
    // rintf rounds ties to even; a carry into the exponent comes out right by itself.
    code = ((exponent + format.bias - 1) << format.mantissa) + int(rintf(ldexpf(a, format.mantissa - exponent)));
  }
  if (code > format.largest) code = saturate ? format.largest : format.overflow;
  return (unsigned char)(sign | unsigned(code));
}
TWIN_RAW float fp8_widen(unsigned char c, const Fp8& format) {
  const int code = c & 0x7f, mantissa = code & ((1 << format.mantissa) - 1), exponent = code >> format.mantissa;
  float a;
  if (code > format.largest) {
    a = code == 0x7c && format.overflow == 0x7c ? real(0x7f800000) : real(0x7fc00000);
  } else if (exponent == 0) {
    a = ldexpf(float(mantissa), 1 - format.bias - format.mantissa);
  } else {
    a = ldexpf(float(mantissa + (1 << format.mantissa)), exponent - format.bias - format.mantissa);
  }
  return c & 0x80 ? -a : a;
}

template <int I> constexpr const Fp8& fp8_format() { return I == __NV_E4M3 ? E4M3 : E5M2; }
template <int I> struct Fp8Value {
  __nv_fp8_storage_t __x;
  Fp8Value() = default;
  TWIN_INLINE explicit Fp8Value(float f) : __x(fp8_narrow(f, fp8_format<I>(), true)) {}
  TWIN_INLINE explicit Fp8Value(__half h) : Fp8Value(float(h)) {}
  TWIN_INLINE explicit Fp8Value(__nv_bfloat16 b) : Fp8Value(float(b)) {}
  TWIN_INLINE explicit operator float() const { return fp8_widen(__x, fp8_format<I>()); }
  TWIN_INLINE explicit operator __half() const { return __half(float(*this)); }
  TWIN_INLINE explicit operator __nv_bfloat16() const { return __nv_bfloat16(float(*this)); }
};
template <int I> struct Fp8x2 {
  unsigned short __x;
  Fp8x2() = default;
  TWIN_INLINE explicit Fp8x2(float2 f)
      : __x((unsigned short)(Fp8Value<I>(f.x).__x | unsigned(Fp8Value<I>(f.y).__x) << 8)) {}
  TWIN_INLINE explicit operator float2() const {
    return {fp8_widen((unsigned char)__x, fp8_format<I>()), fp8_widen((unsigned char)(__x >> 8), fp8_format<I>())};
  }
};
template <int I> struct Fp8x4 {
  unsigned __x;
  Fp8x4() = default;
  TWIN_INLINE explicit Fp8x4(float4 f)
      : __x(Fp8x2<I>(float2{f.x, f.y}).__x | unsigned(Fp8x2<I>(float2{f.z, f.w}).__x) << 16) {}
  TWIN_INLINE explicit operator float4() const {
    const Fp8& g = fp8_format<I>();
    const unsigned x = __x;
    return {fp8_widen((unsigned char)x, g), fp8_widen((unsigned char)(x >> 8), g),
            fp8_widen((unsigned char)(x >> 16), g), fp8_widen((unsigned char)(x >> 24), g)};
  }
};
}  // namespace twin

typedef twin::Fp8Value<__NV_E4M3> __nv_fp8_e4m3;
typedef twin::Fp8Value<__NV_E5M2> __nv_fp8_e5m2;
typedef twin::Fp8x2<__NV_E4M3> __nv_fp8x2_e4m3;
typedef twin::Fp8x2<__NV_E5M2> __nv_fp8x2_e5m2;
typedef twin::Fp8x4<__NV_E4M3> __nv_fp8x4_e4m3;
typedef twin::Fp8x4<__NV_E5M2> __nv_fp8x4_e5m2;

TWIN_INLINE __nv_fp8_storage_t __nv_cvt_float_to_fp8(float f, __nv_saturation_t s, __nv_fp8_interpretation_t i) {
  return twin::fp8_narrow(f, i == __NV_E4M3 ? twin::E4M3 : twin::E5M2, s == __NV_SATFINITE);
}
TWIN_INLINE __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t x, __nv_fp8_interpretation_t i) {
  return {__half(twin::fp8_widen(x, i == __NV_E4M3 ? twin::E4M3 : twin::E5M2)).raw};
}
