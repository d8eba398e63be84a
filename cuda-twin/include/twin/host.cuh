// The emulator's side of twin.cuh: what a kernel may write, on top of the runtime.
#pragma once
#include "twin/runtime.cuh"
#include "twin/types.cuh"
#include "twin/half.cuh"
#include "twin/fp8.cuh"
#include "twin/math.cuh"
#include "twin/warp.cuh"
#include "twin/atomics.cuh"
#include "twin/mma_host.cuh"
