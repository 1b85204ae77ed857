// The arguments of copy_blocks; kernels/copy_blocks/op.py says what they are.
#pragma once

#include "../op.h"

namespace vz {

struct CopyBlocks {
  Out k_pages, v_pages;
  View sources, targets;
  VZ_ARGUMENTS(k_pages, v_pages, sources, targets)
};

}  // namespace vz
