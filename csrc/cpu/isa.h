// Which instructions run. Files named *_avx512.cpp and *_avx2.cpp are compiled for them and chosen at run time;
// they must hold no std:: templates or inline functions, which the linker would share with the other files.
#pragma once

#include <string>

namespace vz {

enum class Isa {
  scalar,
  avx2,    // with FMA and F16C
  avx512,      // F, BW, VL, DQ, VBMI and VNNI: Ice Lake on
  avx512bf16,  // and dot products of bf16: Sapphire Rapids and Zen 4 on
};

Isa isa();                      // the best of this machine, or what was set
bool has_bf16_dot();            // isa() is avx512bf16
const char* isa_name();         // as set_isa takes it
void set_isa(const std::string& name);  // "auto", scalar, avx2, avx512 or avx512bf16: for tests; BadArgument if it is not there

}  // namespace vz
