#include "frames_to_patches.h"

namespace vz {
namespace frames_on_scalar {
#include "frames_generic.h"
}
const FrameKernels frames_scalar = {frames_on_scalar::horizontal, frames_on_scalar::vertical, frames_on_scalar::emit};
}  // namespace vz
