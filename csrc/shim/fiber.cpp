#include "fiber.h"

#if defined(__x86_64__)

// switch(from, to): keep this stack pointer in *from, continue at the stack pointer `to`.
extern "C" void vz_shim_switch(void** from, void* to);
asm(R"(
.text
.globl vz_shim_switch
.hidden vz_shim_switch
vz_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.globl vz_shim_begin
.hidden vz_shim_begin
vz_shim_begin:
  movq %r13, %rdi
  callq *%r12
  ud2
)");
extern "C" void vz_shim_begin();

namespace shim {

void Fiber::start(Entry entry, void* argument) {
  auto top = reinterpret_cast<uintptr_t>(stack_.get() + kStackBytes) & ~uintptr_t{15};
  auto* sp = reinterpret_cast<void**>(top);
  *--sp = nullptr;
  *--sp = nullptr;  // two: the stack must be at a multiple of 16 where vz_shim_begin calls
  *--sp = reinterpret_cast<void*>(&vz_shim_begin);
  *--sp = nullptr;                             // rbp
  *--sp = nullptr;                             // rbx
  *--sp = reinterpret_cast<void*>(entry);      // r12
  *--sp = argument;                            // r13
  *--sp = nullptr;                             // r14
  *--sp = nullptr;                             // r15
  fiber_sp_ = sp;
}

void Fiber::enter() { vz_shim_switch(&scheduler_sp_, fiber_sp_); }
void Fiber::leave() { vz_shim_switch(&fiber_sp_, scheduler_sp_); }

}  // namespace shim

#else

namespace shim {
namespace {

// makecontext passes ints only.
void trampoline(unsigned entry_low, unsigned entry_high, unsigned low, unsigned high) {
  const auto join = [](unsigned l, unsigned h) { return static_cast<uintptr_t>(l) | static_cast<uintptr_t>(h) << 32; };
  reinterpret_cast<Fiber::Entry>(join(entry_low, entry_high))(reinterpret_cast<void*>(join(low, high)));
}

}  // namespace

void Fiber::start(Entry entry, void* argument) {
  getcontext(&fiber_);
  fiber_.uc_stack.ss_sp = stack_.get();
  fiber_.uc_stack.ss_size = kStackBytes;
  const auto e = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(entry));
  const auto a = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(argument));
  makecontext(&fiber_, reinterpret_cast<void (*)()>(trampoline), 4, static_cast<unsigned>(e),
              static_cast<unsigned>(e >> 32), static_cast<unsigned>(a), static_cast<unsigned>(a >> 32));
}

void Fiber::enter() { swapcontext(&scheduler_, &fiber_); }
void Fiber::leave() { swapcontext(&fiber_, &scheduler_); }

}  // namespace shim

#endif
