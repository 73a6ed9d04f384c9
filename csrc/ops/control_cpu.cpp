// The settings that Python sets and asks for through plain C symbols (see extension.py).
#include "cpu/dispatch.h"
#include "ops/control.h"
#include "ops/quant_product_cpu.h"

namespace rocmforge {

static std::atomic<bool> exact_flag{false};

bool exact() { return exact_flag.load(std::memory_order_relaxed); }

// What docs/cpu_kernels.md calls the kernel of a product; "" for a type that is none.
static const char* product_kernel_name(int qtype, int64_t m, int64_t n, int64_t k) {
  const cpu::QuantTypeKernels* type = cpu::quant_kernels().find(qtype);
  if (!type) return "";
  switch (product_kernel(*type, m, n, k, exact())) {
    case ProductKernel::kDot:
      return "dot";
    case ProductKernel::kPanels:
      return "panel_product";
    case ProductKernel::kFloat:
      return "float_product";
    case ProductKernel::kSmall:
      return "double_product";
  }
  return "";
}

}  // namespace rocmforge

#define ROCMFORGE_EXPORT extern "C" __attribute__((visibility("default")))

ROCMFORGE_EXPORT void rocmforge_set_exact(int value) { rocmforge::exact_flag = value != 0; }

ROCMFORGE_EXPORT const char* rocmforge_cpu_instruction_set() {
  return rocmforge::cpu::instruction_set();
}

// The first argument is the device, as in the GPU library.
ROCMFORGE_EXPORT const char* rocmforge_product_kernel(int, int qtype, int64_t m, int64_t n,
                                                      int64_t k) {
  return rocmforge::product_kernel_name(qtype, m, n, k);
}
