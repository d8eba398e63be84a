// CUDA's vector types and their makers, with CUDA's alignments.
#pragma once

#define TWIN_VECTOR(T, name, a1, a2, a4)                                                   \
  struct alignas(a1) name##1 { T x; };                                                     \
  struct alignas(a2) name##2 { T x, y; };                                                  \
  TWIN_VECTOR3(T, name)                                                                    \
  struct alignas(a4) name##4 { T x, y, z, w; };                                            \
  TWIN_INLINE name##1 make_##name##1(T x) { return {x}; }                                  \
  TWIN_INLINE name##2 make_##name##2(T x, T y) { return {x, y}; }                          \
  TWIN_INLINE name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                  \
  TWIN_INLINE name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

#define TWIN_VECTOR3(T, name) struct name##3 { T x, y, z; };
TWIN_VECTOR(signed char, char, 1, 2, 4)
TWIN_VECTOR(unsigned char, uchar, 1, 2, 4)
TWIN_VECTOR(short, short, 2, 4, 8)
TWIN_VECTOR(unsigned short, ushort, 2, 4, 8)
TWIN_VECTOR(int, int, 4, 8, 16)
TWIN_VECTOR(long, long, 8, 16, 16)
TWIN_VECTOR(unsigned long, ulong, 8, 16, 16)
TWIN_VECTOR(long long, longlong, 8, 16, 16)
TWIN_VECTOR(unsigned long long, ulonglong, 8, 16, 16)
TWIN_VECTOR(float, float, 4, 8, 16)
TWIN_VECTOR(double, double, 8, 16, 16)
#undef TWIN_VECTOR3
#define TWIN_VECTOR3(T, name)  // uint3 is the type of the index variables, runtime.cuh has it
TWIN_VECTOR(unsigned, uint, 4, 8, 16)
#undef TWIN_VECTOR3
#undef TWIN_VECTOR
