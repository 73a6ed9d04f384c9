// The GPU library's copy of the settings that Python sets (see extension.py).
#include "ops/control.h"

namespace rocmforge {

static std::atomic<bool> exact_flag{false};

bool exact() { return exact_flag.load(std::memory_order_relaxed); }

}  // namespace rocmforge

extern "C" __attribute__((visibility("default"))) void rocmforge_set_exact(int value) {
  rocmforge::exact_flag = value != 0;
}
