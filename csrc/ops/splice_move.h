// The arguments of splice_move; kernels/splice_move/op.py says what they are.
#pragma once

#include "../op.h"

namespace vz {

struct SpliceMove {
  Out k_pages, v_pages;
  View sources, targets;
  Maybe cos, sin;
  VZ_ARGUMENTS(k_pages, v_pages, sources, targets, cos, sin)
};

}  // namespace vz
