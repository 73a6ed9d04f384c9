// The settings that Python sets and asks for through plain C symbols (see extension.py).
#include "cpu/dispatch.h"
#include "ops/control.h"

namespace rocmforge {

static std::atomic<bool> exact_flag{false};

bool exact() { return exact_flag.load(std::memory_order_relaxed); }

}  // namespace rocmforge

#define ROCMFORGE_EXPORT extern "C" __attribute__((visibility("default")))

ROCMFORGE_EXPORT void rocmforge_set_exact(int value) { rocmforge::exact_flag = value != 0; }

ROCMFORGE_EXPORT const char* rocmforge_cpu_instruction_set() {
  return rocmforge::cpu::instruction_set();
}
