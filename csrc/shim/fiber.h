// A fiber: a function with its own stack that can be left and entered again. A switch costs a few nanoseconds on x86-64
// (only the registers that a call keeps are saved) and two system calls elsewhere (ucontext).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace shim {

class Fiber {
 public:
  using Entry = void (*)(void* argument);
  Fiber() : stack_(new unsigned char[kStackBytes]) {}
  void start(Entry entry, void* argument);  // makes it ready; runs nothing
  void enter();                             // from the scheduler, until the fiber leaves
  void leave();                             // from the fiber, back to the scheduler; its entry must end with it too

 private:
  static constexpr size_t kStackBytes = 64 * 1024;
  std::unique_ptr<unsigned char[]> stack_;
#if defined(__x86_64__)
  void* fiber_sp_ = nullptr;
  void* scheduler_sp_ = nullptr;
#else
  ucontext_t fiber_ = {}, scheduler_ = {};
#endif
};

}  // namespace shim
