// Atomic operations, for the types that CUDA has them for. A launch runs on one OS thread, so plain code is atomic here;
// the emulator checks the access, orders what fences around it say, and notices waits that never end.
#pragma once

namespace twin {
template <class T, class F> TWIN_RAW T atomic(T* p, F f) {
  const void* pc = __builtin_return_address(0);
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T)) {
    twin_runtime->fail(MISALIGNED, "misaligned atomic operation", nullptr, 0, pc);
  }
  twin_runtime->access(p, sizeof(T), ATOMIC, pc);
  const T before = *p, after = f(before);
  *p = after;
  twin_runtime->settled(p, __builtin_memcmp(&before, &after, sizeof(T)) != 0, pc);
  return before;
}
template <class T> using Same = std::common_type_t<T>;  // not deduced: atomicAdd(unsigned*, 1) is fine
}  // namespace twin

#define TWIN_ATOMIC_AS(name, expression, ...)                                                  \
  template <class T> TWIN_INLINE T name(T* p, twin::Same<T> v) {                               \
    static_assert(twin::one_of<T, __VA_ARGS__>, "CUDA has no " #name " for this type");        \
    return twin::atomic(p, [=](T o) TWIN_UNSEEN -> T { return expression; });                              \
  }
#define TWIN_ATOMIC(name, expression, ...)                \
  TWIN_ATOMIC_AS(name, expression, __VA_ARGS__)           \
  TWIN_ATOMIC_AS(name##_block, expression, __VA_ARGS__)   \
  TWIN_ATOMIC_AS(name##_system, expression, __VA_ARGS__)
namespace twin {
template <class T> TWIN_INLINE T add(T a, T b) { return T(a + b); }
TWIN_INLINE int add(int a, int b) { return int(unsigned(a) + unsigned(b)); }  // wraps
}  // namespace twin
TWIN_ATOMIC(atomicAdd, twin::add(o, T(v)), int, unsigned, unsigned long long, float, double, __half, __half2, __nv_bfloat16,
            __nv_bfloat162)
TWIN_ATOMIC(atomicSub, T(unsigned(o) - unsigned(v)), int, unsigned)
TWIN_ATOMIC(atomicExch, (void(o), T(v)), int, unsigned, unsigned long long, float)
TWIN_ATOMIC(atomicMin, v < o ? v : o, int, unsigned, long long, unsigned long long)
TWIN_ATOMIC(atomicMax, v > o ? v : o, int, unsigned, long long, unsigned long long)
TWIN_ATOMIC(atomicAnd, T(o & v), int, unsigned, unsigned long long)
TWIN_ATOMIC(atomicOr, T(o | v), int, unsigned, unsigned long long)
TWIN_ATOMIC(atomicXor, T(o ^ v), int, unsigned, unsigned long long)
TWIN_ATOMIC(atomicInc, o >= v ? 0u : o + 1, unsigned)
TWIN_ATOMIC(atomicDec, o == 0 || o > v ? v : o - 1, unsigned)
#undef TWIN_ATOMIC
#undef TWIN_ATOMIC_AS
#define TWIN_CAS(name)                                                                                             \
  template <class T> TWIN_INLINE T name(T* p, twin::Same<T> compare, twin::Same<T> v) {                            \
    static_assert(twin::one_of<T, int, unsigned, unsigned long long, unsigned short>, "CUDA has no " #name " for this type"); \
    return twin::atomic(p, [=](T o) TWIN_UNSEEN -> T { return o == compare ? v : o; });                                        \
  }
TWIN_CAS(atomicCAS)
TWIN_CAS(atomicCAS_block)
TWIN_CAS(atomicCAS_system)
#undef TWIN_CAS
