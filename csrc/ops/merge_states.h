// The arguments of merge_states; kernels/merge_states/op.py says what they are.
#pragma once

#include "../op.h"

namespace vz {

struct MergeStates {
  View out_a, lse_a, out_b, lse_b;
  Out out;
  MaybeOut lse;
  VZ_ARGUMENTS(out_a, lse_a, out_b, lse_b, out, lse)
};

}  // namespace vz
