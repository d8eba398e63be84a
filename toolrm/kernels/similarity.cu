// Farthest-first over unit rows: each launch takes one more row into the choice.
//
// farthest_step_f32  one warp a row: the row's cosine with the row chosen last, kept where it is the largest so far; the smallest of
//                    these is the next choice. Reads 4 d bytes a row that is not chosen yet, and 4 bytes a row that is.
//
// `choices` holds a key for each step: the bits of the choice's largest cosine, in the order of numbers, above its place. The least
// key is the smallest cosine and, of equals, the row that stands first; a minimum does not depend on who comes first, so neither does
// the choice. Step s reads key s and leaves key s + 1.
#include "twin.cuh"

constexpr unsigned ALL_LANES = 0xffffffffu;

// Bits whose order as unsigned numbers is that of the floats.
__device__ __forceinline__ unsigned ordered(float x) {
  const unsigned bits = __float_as_uint(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// x [n, d]; nearest [n], -inf at first and +inf for chosen rows; choices [steps + 1], all ones but for choices[0].
extern "C" __global__ void __launch_bounds__(256)
    farthest_step_f32(const float* x, float* nearest, unsigned long long* choices, int step, int n, int d) {
  const int lane = threadIdx.x % 32, warps = gridDim.x * (blockDim.x / 32);
  const int chosen = int(unsigned(choices[step]));
  const float* pivot = x + (long long)chosen * d;
  unsigned long long least = ~0ull;
  for (int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; row < n; row += warps) {
    const float before = nearest[row];
    if (row == chosen) {
      __syncwarp();  // all lanes have read it
      if (lane == 0) nearest[row] = INFINITY;
      continue;
    }
    if (before == INFINITY) continue;
    float cosine = 0.0f;
    const float* other = x + (long long)row * d;
    for (int k = lane; k < d; k += 32) cosine += pivot[k] * other[k];
    for (int m = 16; m > 0; m >>= 1) cosine += __shfl_xor_sync(ALL_LANES, cosine, m);
    const float now = fmaxf(before, cosine);
    __syncwarp();  // all lanes have read it
    if (lane == 0) nearest[row] = now;
    const unsigned long long key = (unsigned long long)ordered(now) << 32 | unsigned(row);
    if (key < least) least = key;
  }
  if (lane == 0 && least != ~0ull) atomicMin(&choices[step + 1], least);
}
