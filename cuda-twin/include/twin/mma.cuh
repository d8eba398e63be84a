// Tensor cores: the fragments. mma_device.cuh has the instructions, mma_host.cuh a warp exchange that computes the same.
#pragma once

namespace twin {
// Fragments of mma.sync.m16n8k16 as the PTX manual lays them out over a warp; 16-bit pairs, the lower index in the lower
// half. With g = lane / 4 and t = lane % 4:
//   A, 16x16: r[0] row g, columns 2t and 2t+1; r[1] row g+8; r[2] row g, columns 2t+8, 2t+9; r[3] row g+8, the same
//   B, 16x8:  r[0] rows 2t, 2t+1 of column g; r[1] rows 2t+8, 2t+9
//   C, 16x8:  r[0], r[1] row g, columns 2t, 2t+1; r[2], r[3] row g+8
struct FragmentA { unsigned r[4]; };
struct FragmentB { unsigned r[2]; };
struct FragmentC { float r[4]; };
}  // namespace twin
