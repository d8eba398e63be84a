// Every type and function of the portable subset at least once, so that both compilers see the same names.
#include "twin.cuh"

extern "C" __global__ void narrow(const float* x, __half* h, __nv_bfloat16* b, unsigned char* e4m3, unsigned char* e5m2, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  h[i] = __half(x[i]);
  b[i] = __float2bfloat16(x[i]);
  e4m3[i] = __nv_cvt_float_to_fp8(x[i], __NV_SATFINITE, __NV_E4M3);
  e5m2[i] = __nv_cvt_float_to_fp8(x[i], __NV_SATFINITE, __NV_E5M2);
}

extern "C" __global__ void widen(const unsigned short* x, float* h, float* b, float* e4m3, float* e5m2, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  h[i] = __half2float(__ushort_as_half(x[i]));
  b[i] = float(__ushort_as_bfloat16(x[i]));
  __nv_fp8_e4m3 small;
  __nv_fp8_e5m2 wide;
  small.__x = wide.__x = (unsigned char)x[i];
  e4m3[i] = float(small);
  e5m2[i] = float(wide);
}

extern "C" __global__ void pairs(const float* x, float* y) {
  const __half2 h = __floats2half2_rn(x[0], x[1]), g = __float2half2_rn(x[2]);
  const float2 a = __half22float2(__hfma2(h, g, __hadd2(h, g)));
  y[0] = a.x, y[1] = a.y;
  const __nv_bfloat162 b = __floats2bfloat162_rn(x[0], x[1]), c = __float2bfloat162_rn(x[2]);
  const float2 d = __bfloat1622float2(__hmax2(__hmul2(b, c), __hsub2(b, c)));
  y[2] = d.x, y[3] = d.y;
  y[4] = __low2float(b) + __high2float(h);
  y[5] = float(__hadd(h.x, g.x)) + float(__hmul(b.x, c.y)) + float(h.x * g.x) + float(b.x / c.x) + float(-b.y);
  const float4 v = *reinterpret_cast<const float4*>(x);
  const __nv_fp8x4_e4m3 packed(v);
  const float4 w = float4(packed);
  y[6] = w.x + w.y + w.z + w.w;
  const int4 i4 = make_int4(1, 2, 3, 4);
  const uint4 u4 = make_uint4(1, 2, 3, 4);
  const uchar4 c4 = make_uchar4(1, 2, 3, 4);
  const double2 d2 = make_double2(1, 2);
  y[7] = float(i4.w + int(u4.z) + c4.y) + float(d2.x);
}

extern "C" __global__ void bits(const int* x, int* y) {
  const int a = x[0], b = x[1];
  const unsigned u = unsigned(a), v = unsigned(b);
  int i = 0;
  y[i++] = __popc(u), y[i++] = __popcll(0xf0f0f0f0f0ull), y[i++] = __clz(a), y[i++] = __clz(0), y[i++] = __clzll(1);
  y[i++] = __ffs(a), y[i++] = __ffs(0), y[i++] = int(__brev(u)), y[i++] = int(__byte_perm(u, v, 0x7531));
  y[i++] = int(__funnelshift_l(u, v, 8)), y[i++] = int(__funnelshift_r(u, v, 8)), y[i++] = __mulhi(a, b);
  y[i++] = int(__umulhi(u, v)), y[i++] = __dp4a(a, b, 10), y[i++] = min(a, b), y[i++] = int(max(u, v));
  y[i++] = __float_as_int(__fdividef(1.0f, 4.0f)), y[i++] = __float2int_rn(2.5f), y[i++] = __float2int_rz(-2.7f);
  y[i++] = __float2int_rn(1e20f), y[i++] = int(__float2uint_rn(-3.0f)), y[i++] = __ldg(x), y[i++] = __float_as_int(rsqrtf(0.25f));
  y[i++] = __float_as_int(fminf(__int_as_float(0x7fc00000), 1.0f)), y[i++] = __float_as_int(__saturatef(1.5f));
  y[i++] = isinf(INFINITY) && isnan(NAN) && !isfinite(-INFINITY), y[i++] = int(uint64_t(1) << 33 >> 31);
}

extern "C" __global__ void warps(int* y) {
  const int t = threadIdx.x;
  const unsigned all = 0xffffffffu;
  const unsigned long long big = (1ull << 40) + t;
  y[t] = __shfl_up_sync(all, t, 3) + 100 * __shfl_down_sync(all, t, 5, 16) + 10000 * __shfl_xor_sync(all, t, 9);
  y[32 + t] = __shfl_sync(all, t, 2, 8) + 100 * int(__ballot_sync(all, t < 5)) + 10000 * __any_sync(all, t == 31) +
              20000 * __all_sync(all, t < 31) + 40000 * int(__shfl_xor_sync(all, big, 1) - (1ull << 40));
  y[64 + t] = int(__reduce_add_sync(all, unsigned(t))) + 1000 * __reduce_max_sync(all, t - 40) + int(__reduce_or_sync(all, 1u << (t % 4)));
}

extern "C" __global__ void atomics(int* i, unsigned* u, unsigned long long* l, float* f, double* d, __half2* h, __nv_bfloat16* b) {
  const int t = threadIdx.x;
  atomicAdd(i, 1), atomicSub(i + 1, 2), atomicMax(i + 2, t), atomicMin(i + 3, -t), atomicExch(i + 4, 7);
  atomicAnd(u, ~(1u << t)), atomicOr(u + 1, 1u << t), atomicXor(u + 2, 3u), atomicInc(u + 3, 9u), atomicDec(u + 4, 9u);
  if (t == 5) atomicCAS(u + 5, 0u, 99u);
  atomicAdd(l, 1ull << 33), atomicMax(l + 1, (unsigned long long)t);
  atomicAdd(f, 0.5f), atomicAdd(d, 0.25), atomicAdd(h, __floats2half2_rn(1.0f, 2.0f)), atomicAdd(b, __nv_bfloat16(1.0f));
}

extern "C" __global__ void words(int n) {
  assert(n > 0);
  printf("n is %d\n", n);
}
