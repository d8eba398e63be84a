// The table of cosines and sines, and the rotation of queries and keys.
//
// rotary_table   cos, sin [planes, tokens, pairs]: a thread for each; writes 8 bytes, read again by every layer.
// rotate         turns heads out of place or in place, forward or adjoint (the backward): 2 d sizeof(T) bytes a head, or
//                2 r sizeof(T) in place, for r = 2 pairs rotated lanes of d; 4 pairs floats of the table, from cache for all
//                heads of a token but one.
//   rotate_T     a thread for each pair, any pairing, any strides.
//   rotate16_T   a thread for 16 bytes of one half and the 16 of the other: half-split pairing, all aligned.
#include "rotary.cuh"

// axes[plane, pair]: which row of positions [axes, tokens] drives the pair; negative: none (angle 0).
extern "C" __global__ void rotary_table(const float* positions, const float* inv, const int* axes, float scaling, int planes,
                                        int tokens, int pairs, float* cosines, float* sines) {
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= unsigned(planes) * tokens * pairs) return;
  const unsigned i = at % pairs, row = at / pairs, token = row % tokens, plane = row / tokens;
  const int axis = axes[plane * pairs + i];
  const float angle = axis < 0 ? 0.0f : __fmul_rn(positions[(long long)axis * tokens + token], inv[i]);
  float s, c;
  sincosf(angle, &s, &c);
  cosines[at] = c * scaling;
  sines[at] = s * scaling;
}

// planes[heads]: the table's plane for each head; negative: the head is copied.
struct Table {
  const float* cosines;
  const float* sines;
  const int* planes;
  long long plane_stride;
  float sign;
};

template <typename T, int W>
__device__ __forceinline__ void rotate(const T* x, T* y, Table table, int tokens, int heads, int width, int pairs, int adjacent,
                                       Heads from, Heads to) {
  // Of a head: the pairs, then the lanes that have none.
  const int turns = pairs / W, items = turns + (width - 2 * pairs) / W;
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= unsigned(tokens) * heads * items) return;
  const int item = int(at % items);
  const unsigned row_of_heads = at / items, head = row_of_heads % heads, token = row_of_heads / heads;
  const T* const in = x + from.at(token, head);
  T* const out = y + to.at(token, head);
  using Run = Lanes<T, W>;
  const int plane = table.planes[head];
  if (item >= turns || plane < 0) {
    if (in == out) return;
    const int first = item < turns ? item * W : 2 * pairs + (item - turns) * W;
    *(Run*)(out + first) = *(const Run*)(in + first);
    if (item < turns) *(Run*)(out + first + pairs) = *(const Run*)(in + first + pairs);
    return;
  }
  const long long row = plane * table.plane_stride + (long long)token * pairs + item * W;
  const int first = adjacent ? 2 * item : item * W, second = adjacent ? first + 1 : first + pairs;
  Run a = *(const Run*)(in + first), b = *(const Run*)(in + second);
  for (int w = 0; w < W; w++) {
    const Pair p = turned(float(a.lane[w]), float(b.lane[w]), table.cosines[row + w], table.sign * table.sines[row + w]);
    a.lane[w] = T(p.first), b.lane[w] = T(p.second);
  }
  *(Run*)(out + first) = a;
  *(Run*)(out + second) = b;
}

#define ROTATE(name, T, W)                                                                                                    \
  extern "C" __global__ void __launch_bounds__(256)                                                                           \
      name(const T* x, T* y, const float* cosines, const float* sines, const int* planes, long long plane_stride, float sign, \
           int tokens, int heads, int width, int pairs, int adjacent, int seq, long long x_batch, long long x_seq,      \
           long long x_head, long long y_batch, long long y_seq, long long y_head) {                                          \
    rotate<T, W>(x, y, {cosines, sines, planes, plane_stride, sign}, tokens, heads, width, pairs, adjacent,                   \
                 {unsigned(seq), x_batch, x_seq, x_head}, {unsigned(seq), y_batch, y_seq, y_head});                                               \
  }
ROTATE(rotate_f32, float, 1)
ROTATE(rotate_bf16, __nv_bfloat16, 1)
ROTATE(rotate_f16, __half, 1)
ROTATE(rotate16_f32, float, 4)
ROTATE(rotate16_bf16, __nv_bfloat16, 8)
ROTATE(rotate16_f16, __half, 8)
