// The emulator's interface, CUDA's keywords, shared memory and block barriers.
//
// A CUDA thread is a coroutine; everything here that waits for others gives control to the scheduler.
#pragma once
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <type_traits>
#include <utility>

#ifndef TWIN_SCAN  // the emulator looks for this word in the preprocessed text to find the kernels
#define __global__ __attribute__((noinline))
#endif
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define __shared__ static_assert(false, "shared memory is declared by TWIN_SHARED or TWIN_DYN_SHARED");

// TWIN_INLINE: part of the kernel, its accesses are checked and reported at the caller's line.
// TWIN_RAW: part of the emulator, its own accesses must not be checked. TWIN_UNSEEN: the same for its lambdas; a thread may
// give way at a checked access, which must not happen within an atomic operation.
#define TWIN_INLINE inline __attribute__((always_inline))
#ifdef TWIN_CHECK
#define TWIN_UNSEEN __attribute__((no_sanitize("thread"), no_sanitize_coverage))
#define TWIN_RAW TWIN_UNSEEN __attribute__((noinline)) inline
#else
#define TWIN_UNSEEN
#define TWIN_RAW inline
#endif
// Default arguments that take the caller's position.
#define TWIN_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace twin {
enum Access { READ, WRITE, ATOMIC, VOLATILE_READ, VOLATILE_WRITE };
enum Failure { LANE, MISALIGNED, ASSERT, ARITHMETIC, INDEX };
enum Scope { BLOCK, DEVICE, SYSTEM };

struct Thread {
  uint3 thread, block, block_dim, grid_dim;
  unsigned lane;
};
// What Rust provides; src/emulator/runtime.rs has the same structure.
struct Runtime {
  Thread thread;     // the one that runs now
  long long fuel;    // basic blocks that it may still run
  void* (*shared)(const void* key, const char* name, size_t bytes, size_t element, const void* pc);
  // Waits for the lanes of `mask` and returns what each gave: which took part, then `bytes` for each of 32 lanes.
  const void* (*warp)(unsigned mask, const void* mine, size_t bytes, const char* file, int line);
  unsigned (*block)(int vote, const char* file, int line);  // waits for the block, returns the number of votes
  void (*access)(const volatile void* p, size_t bytes, int kind, const void* pc);
  void (*settled)(const volatile void* p, int changed, const void* pc);  // after an atomic operation
  void (*fence)(int scope);
  void (*pause)(const void* pc);  // lets others run
  void (*fail)(int kind, const char* what, const char* file, int line, const void* pc);
  void (*print)(const char* text, size_t bytes);
  void (*exhausted)(const void* pc);
};
struct Param {
  char kind;       // c: pointer to const, p: pointer, v: value, 0: end
  char element;    // f float, d double, h half, b bfloat16, i integer, ? other
  unsigned bytes;  // of the value or of what is pointed at
};
struct Kernel {
  void (*entry)(void** arguments);
  const Param* params;
  int line;
};
struct Gathered {
  unsigned lanes;
  unsigned unused[3];
  unsigned char bytes[];
};
extern "C" {
extern thread_local Runtime* twin_runtime __attribute__((tls_model("initial-exec")));
}

// `const`: the identity of a thread does not change while it runs, so the compiler may ask once.
#define TWIN_IDENTITY(type, name, field) \
  __attribute__((const)) TWIN_RAW type name() { return twin_runtime->thread.field; }
TWIN_IDENTITY(uint3, thread_index, thread)
TWIN_IDENTITY(uint3, block_index, block)
TWIN_IDENTITY(uint3, block_size, block_dim)
TWIN_IDENTITY(uint3, grid_size, grid_dim)
TWIN_IDENTITY(unsigned, lane, lane)

TWIN_RAW void* shared(const void* key, const char* name, size_t bytes, size_t element) {
  return twin_runtime->shared(key, name, bytes, element, __builtin_return_address(0));
}
TWIN_RAW const Gathered* gather(unsigned mask, const void* mine, size_t bytes, const char* file, int line) {
  return static_cast<const Gathered*>(twin_runtime->warp(mask, mine, bytes, file, line));
}
TWIN_RAW unsigned block_barrier(int vote, const char* file, int line) { return twin_runtime->block(vote, file, line); }
TWIN_RAW void fence(int scope) { twin_runtime->fence(scope); }
TWIN_RAW void pause() { twin_runtime->pause(__builtin_return_address(0)); }
TWIN_RAW void fail(int kind, const char* what, const char* file, int line) {
  twin_runtime->fail(kind, what, file, line, __builtin_return_address(0));
}
// The compiler does not instrument these two.
TWIN_RAW void* copy(void* to, const void* from, size_t n) {
  const void* pc = __builtin_return_address(0);
  twin_runtime->access(from, n, READ, pc);
  twin_runtime->access(to, n, WRITE, pc);
  return __builtin_memcpy(to, from, n);
}
TWIN_RAW void* fill(void* to, int byte, size_t n) {
  twin_runtime->access(to, n, WRITE, __builtin_return_address(0));
  return __builtin_memset(to, byte, n);
}
__attribute__((format(printf, 1, 2))) TWIN_RAW int print(const char* format, ...) {
  char text[1024];  // CUDA's own limit for one call is larger, but a kernel's stack is small
  va_list list;
  va_start(list, format);
  int n = vsnprintf(text, sizeof text, format, list);
  va_end(list);
  twin_runtime->print(text, n < 0 ? 0 : n < int(sizeof text) ? n : sizeof text - 1);
  return n;
}
}  // namespace twin

#define threadIdx (twin::thread_index())
#define blockIdx (twin::block_index())
#define blockDim (twin::block_size())
#define gridDim (twin::grid_size())
constexpr int warpSize = 32;

#define TWIN_SHARED(T, name, dims)                                                              \
  typedef T twin_type_##name dims;                                                              \
  static char twin_key_##name;                                                                  \
  twin_type_##name& name = *static_cast<twin_type_##name*>(                                     \
      twin::shared(&twin_key_##name, #name, sizeof(twin_type_##name), sizeof(T)))
#define TWIN_DYN_SHARED(T, name) T* const name = static_cast<T*>(twin::shared(nullptr, #name, 0, sizeof(T)))

TWIN_INLINE void __syncthreads(TWIN_HERE) { twin::block_barrier(0, file, line); }
TWIN_INLINE int __syncthreads_count(int p, TWIN_HERE) { return int(twin::block_barrier(p != 0, file, line)); }
TWIN_INLINE int __syncthreads_or(int p, TWIN_HERE) { return twin::block_barrier(p != 0, file, line) != 0; }
TWIN_INLINE int __syncthreads_and(int p, TWIN_HERE) { return twin::block_barrier(p == 0, file, line) == 0; }
TWIN_INLINE void __threadfence_block() { twin::fence(twin::BLOCK); }
TWIN_INLINE void __threadfence() { twin::fence(twin::DEVICE); }
TWIN_INLINE void __threadfence_system() { twin::fence(twin::SYSTEM); }
TWIN_INLINE void __nanosleep(unsigned) { twin::pause(); }
// The lanes that happen to be together mean nothing portable: masks are written out.
unsigned __activemask() = delete;

#undef assert
#define assert(condition) \
  ((condition) ? void(0) : twin::fail(twin::ASSERT, "assertion `" #condition "` failed", __FILE__, __LINE__))
#define memcpy(to, from, n) twin::copy(to, from, n)
#define memset(to, byte, n) twin::fill(to, byte, n)
#define printf(...) twin::print(__VA_ARGS__)
#define __trap() twin::fail(twin::ASSERT, "__trap was reached", __FILE__, __LINE__)
