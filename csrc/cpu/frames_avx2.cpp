#include "frames_to_patches.h"

namespace vz {
namespace frames_on_avx2 {
#include "frames_generic.h"
}
const FrameKernels frames_avx2 = {frames_on_avx2::horizontal, frames_on_avx2::vertical, frames_on_avx2::emit};
}  // namespace vz
