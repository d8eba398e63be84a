// Route traces on the device: the ids of a layer into the packed rows of traces, and recorded ids back out for replay.
//
// trace_pack    reads 4 bytes and writes 1 (u8, up to 256 experts) or 2 (u16) for each of tokens k ids.
// trace_gather  the reverse. Tokens without a recorded row get the ids that the router would choose, read only there.
//
// Trace rows are [rows][layers][k], as in the codec of RouteTrace.
#include "twin.cuh"

template <typename T>
__device__ __forceinline__ void trace_pack(const unsigned* ids, T* trace, int tokens, int layers, int k, int layer) {
  const long long n = (long long)tokens * k, step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
    trace[(i / k * layers + layer) * k + i % k] = T(ids[i]);
  }
}

// source [tokens] is the row of each token in `trace`, -1 for none; natural and ids [tokens, k].
template <typename T>
__device__ __forceinline__ void trace_gather(const T* trace, const int* source, const unsigned* natural, unsigned* ids, int tokens,
                                             int layers, int k, int layer) {
  const long long n = (long long)tokens * k, step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
    const long long row = source[i / k];
    ids[i] = row < 0 ? natural[i] : unsigned(trace[(row * layers + layer) * k + i % k]);
  }
}

#define TRACE(suffix, T)                                                                                                     \
  extern "C" __global__ void __launch_bounds__(256)                                                                          \
      trace_pack_##suffix(const unsigned* ids, T* trace, int tokens, int layers, int k, int layer) {                         \
    trace_pack(ids, trace, tokens, layers, k, layer);                                                                        \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(256)                                                                          \
      trace_gather_##suffix(const T* trace, const int* source, const unsigned* natural, unsigned* ids, int tokens, int layers, \
                            int k, int layer) {                                                                              \
    trace_gather(trace, source, natural, ids, tokens, layers, k, layer);                                                     \
  }
TRACE(u8, unsigned char)
TRACE(u16, unsigned short)
