// The 16-bit element types as plain bits; how they become floats is each instruction set's own.
#pragma once

#include <cstdint>

namespace vz {
struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };
}  // namespace vz
