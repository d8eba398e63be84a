// mma.cuh on a GPU: the instructions.
#pragma once
#include "twin/mma.cuh"

namespace twin {
#define TWIN_MMA_PTX(name, type)                                                                              \
  __device__ __forceinline__ FragmentC name(FragmentA a, FragmentB b, FragmentC c) {                          \
    FragmentC d;                                                                                              \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 "                               \
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"                                  \
                 : "=f"(d.r[0]), "=f"(d.r[1]), "=f"(d.r[2]), "=f"(d.r[3])                                     \
                 : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]),              \
                   "f"(c.r[0]), "f"(c.r[1]), "f"(c.r[2]), "f"(c.r[3]));                                       \
    return d;                                                                                                 \
  }
TWIN_MMA_PTX(mma_m16n8k16_bf16, "bf16")
TWIN_MMA_PTX(mma_m16n8k16_f16, "f16")
#undef TWIN_MMA_PTX
}  // namespace twin
