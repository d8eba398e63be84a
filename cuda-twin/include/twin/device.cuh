// The GPU compilers' side of twin.cuh: CUDA's own headers and the macros of the portable subset.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#ifndef __CUDACC_RTC__
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#else  // NVRTC has no standard headers
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#endif
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fffffff)
#endif

#define TWIN_SHARED(T, name, dims) __shared__ T name dims
#define TWIN_DYN_SHARED(T, name)                                        \
  extern __shared__ __align__(16) unsigned char twin_dynamic_bytes[];   \
  T* const name = reinterpret_cast<T*>(twin_dynamic_bytes)
#include "twin/mma_device.cuh"
