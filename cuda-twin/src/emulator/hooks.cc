// What the compiler's instrumentation calls. Kernels are compiled for ThreadSanitizer, UndefinedBehaviorSanitizer and
// SanitizerCoverage, but these functions stand where the sanitizers' own libraries would.
#include "twin.cuh"
#define HERE __builtin_return_address(0)

namespace {
// Before the first launch of an OS thread: the library's static constructors access memory too.
void* no_shared(const void*, const char*, size_t, size_t, const void*) { return nullptr; }
const void* no_warp(unsigned, const void*, size_t, const char*, int) { return nullptr; }
unsigned no_block(int, const char*, int) { return 0; }
void no_access(const volatile void*, size_t, int, const void*) {}
void no_settled(const volatile void*, int, const void*) {}
void no_fence(int) {}
void no_pause(const void*) {}
void no_fail(int, const char*, const char*, int, const void*) {}
void no_print(const char*, size_t) {}
twin::Runtime nobody = {{}, 1ll << 62, no_shared, no_warp, no_block, no_access, no_settled, no_fence, no_pause, no_fail,
                        no_print, no_pause};
struct Position {
  const char* file;
  unsigned line, column;
};
}  // namespace

extern "C" {
thread_local twin::Runtime* twin_runtime = &nobody;
twin::Runtime* twin_bind(twin::Runtime* runtime) {
  twin::Runtime* before = twin_runtime;
  twin_runtime = runtime ? runtime : &nobody;
  return before;
}

#define HOOK(name, bytes, kind) \
  void name(void* p) { twin_runtime->access(p, bytes, twin::kind, HERE); }
#define HOOKS(bytes)                                                        \
  HOOK(__tsan_read##bytes, bytes, READ)                                     \
  HOOK(__tsan_write##bytes, bytes, WRITE)                                   \
  HOOK(__tsan_unaligned_read##bytes, bytes, READ)                           \
  HOOK(__tsan_unaligned_write##bytes, bytes, WRITE)                         \
  HOOK(__tsan_volatile_read##bytes, bytes, VOLATILE_READ)                   \
  HOOK(__tsan_volatile_write##bytes, bytes, VOLATILE_WRITE)                 \
  HOOK(__tsan_unaligned_volatile_read##bytes, bytes, VOLATILE_READ)         \
  HOOK(__tsan_unaligned_volatile_write##bytes, bytes, VOLATILE_WRITE)
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
void __tsan_read_range(void* p, size_t n) { twin_runtime->access(p, n, twin::READ, HERE); }
void __tsan_write_range(void* p, size_t n) { twin_runtime->access(p, n, twin::WRITE, HERE); }
void __tsan_vptr_read(void*) {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

void __sanitizer_cov_trace_pc() {
  if (--twin_runtime->fuel < 0) twin_runtime->exhausted(HERE);
}

#define WRONG(name, kind, what)                                                              \
  void name(const Position* at, ...) {                                                       \
    twin_runtime->fail(twin::kind, what, at->file, int(at->line), HERE);                     \
  }
WRONG(__ubsan_handle_type_mismatch_v1, MISALIGNED, "misaligned access")
WRONG(__ubsan_handle_out_of_bounds, INDEX, "an array is indexed outside it")
WRONG(__ubsan_handle_divrem_overflow, ARITHMETIC, "integer division by zero, or its result does not fit")
WRONG(__ubsan_handle_add_overflow, ARITHMETIC, "signed overflow of an addition")
WRONG(__ubsan_handle_sub_overflow, ARITHMETIC, "signed overflow of a subtraction")
WRONG(__ubsan_handle_mul_overflow, ARITHMETIC, "signed overflow of a multiplication")
WRONG(__ubsan_handle_negate_overflow, ARITHMETIC, "signed overflow of a negation")
WRONG(__ubsan_handle_shift_out_of_bounds, ARITHMETIC, "shift by a negative number or by more than the width")
}
