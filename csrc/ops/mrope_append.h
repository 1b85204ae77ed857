// The arguments of mrope_append; kernels/mrope_append/op.py says what they are.
#pragma once

#include "../op.h"

namespace vz {

struct MropeAppend {
  MaybeOut q;
  View k, v;
  Maybe cos, sin;
  Out k_pages, v_pages;
  View slots;
  VZ_ARGUMENTS(q, k, v, cos, sin, k_pages, v_pages, slots)
};

}  // namespace vz
