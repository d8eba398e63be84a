// How the emulator calls a kernel: its parameter list, and a call from an array of pointers to the arguments.
#pragma once
#include "twin.cuh"

namespace twin {
template <class T> constexpr char element() {
  if constexpr (std::is_same_v<T, float>) return 'f';
  else if constexpr (std::is_same_v<T, double>) return 'd';
  else if constexpr (std::is_same_v<T, __half>) return 'h';
  else if constexpr (std::is_same_v<T, __nv_bfloat16>) return 'b';
  else if constexpr (std::is_integral_v<T>) return 'i';
  else return '?';
}
template <class T> constexpr unsigned size() {
  if constexpr (std::is_void_v<T>) return 0;
  else return sizeof(T);
}
template <class A> constexpr Param param() {
  typedef std::remove_pointer_t<A> T;
  typedef std::remove_cv_t<T> Plain;
  if constexpr (std::is_pointer_v<A>) return {std::is_const_v<T> ? 'c' : 'p', element<Plain>(), size<Plain>()};
  else return {'v', element<Plain>(), sizeof(A)};
}
template <class... A> struct Signature {
  static constexpr Param list[] = {param<std::remove_cv_t<A>>()..., {0, 0, 0}};
};
template <class... A> constexpr const Param* signature(void (*)(A...)) { return Signature<A...>::list; }
template <class... A, size_t... I> TWIN_RAW void call(void (*kernel)(A...), void** a, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_cv_t<A>*>(a[I])...);
}
template <class... A> TWIN_RAW void call(void (*kernel)(A...), void** a) {
  call(kernel, a, std::index_sequence_for<A...>());
}
}  // namespace twin

// TWIN_ENTRY(name, line) is written once for each kernel of a source.
#define TWIN_ENTRY(name, line)                                               \
  static void twin_entry_##name(void** a) { twin::call(name, a); }           \
  extern "C" const twin::Kernel twin_kernel_##name;                          \
  const twin::Kernel twin_kernel_##name = {twin_entry_##name, twin::signature(name), line};
