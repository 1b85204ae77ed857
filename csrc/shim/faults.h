// Kernels that are wrong, each in one way: the tests run them and see the shim say so.
#pragma once

#include <string>

namespace shim {

// "barrier", "lane", "alignment", "shared", or "race" (returns whether the result is the right one).
bool run_fault(const std::string& name);

}  // namespace shim
