// mma.cuh in emulation: each lane sees all fragments and computes its four results.
#pragma once
#include "twin/mma.cuh"

namespace twin {
template <class Format> TWIN_RAW float element_of(const unsigned* r, int i) {
  return Format::widen(uint16_t(r[i / 2] >> (i % 2 * 16)));
}
template <class Format> TWIN_RAW FragmentC mma_m16n8k16(FragmentA a, FragmentB b, FragmentC c, const char* file, int line) {
  struct Both { FragmentA a; FragmentB b; } mine = {a, b};
  const Both* all = reinterpret_cast<const Both*>(gather(~0u, &mine, sizeof mine, file, line)->bytes);
  const int g = int(lane() >> 2), t = int(lane() & 3);
  for (int i = 0; i < 4; i++) {
    const int row = g + (i >= 2 ? 8 : 0), column = t * 2 + (i & 1);
    for (int k = 0; k < 16; k++) {
      const int inner = k & 7, upper = k >= 8;
      c.r[i] += element_of<Format>(all[(row & 7) * 4 + inner / 2].a.r, upper * 4 + (row >= 8) * 2 + inner % 2) *
                element_of<Format>(all[column * 4 + inner / 2].b.r, upper * 2 + inner % 2);
    }
  }
  return c;
}
TWIN_INLINE FragmentC mma_m16n8k16_bf16(FragmentA a, FragmentB b, FragmentC c, TWIN_HERE) {
  return mma_m16n8k16<Bfloat16>(a, b, c, file, line);
}
TWIN_INLINE FragmentC mma_m16n8k16_f16(FragmentA a, FragmentB b, FragmentC c, TWIN_HERE) {
  return mma_m16n8k16<Half>(a, b, c, file, line);
}
}  // namespace twin
