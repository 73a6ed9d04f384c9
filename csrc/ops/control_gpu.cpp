// The GPU library's copy of the settings that Python sets, and what Python asks it (see
// extension.py).
#include "ops/control.h"
#include "ops/gpu.h"
#include "ops/product_limits.h"
#include "ops/quant_product_gpu.h"

namespace rocmforge {

static std::atomic<bool> exact_flag{false};

bool exact() { return exact_flag.load(std::memory_order_relaxed); }

static thread_local bool inputs_at_rest_flag = false;

bool inputs_at_rest() { return inputs_at_rest_flag; }

// From the build, e.g. "sm_80 sm_90 compute_90".
const char* gpu_architectures() { return ROCMFORGE_ARCHITECTURES; }

// What docs/performance.md calls the kernel of a product; "" for a type that is none.
static const char* product_kernel_name(int device, int qtype, int64_t rows, int64_t k) {
  for (const QuantTypeInfo& type : kQuantTypes) {
    if (type.id != qtype) continue;
    switch (product_kernel(device, type, rows, k)) {
      case ProductKernel::kMatvec:
        return "matvec";
      case ProductKernel::kMultirow:
        return "multirow";
      case ProductKernel::kTile:
        return "tile";
      case ProductKernel::kExpanded:
        return type.is_quantized() ? "expand, GEMM" : "GEMM";
    }
  }
  return "";
}

}  // namespace rocmforge

#define ROCMFORGE_EXPORT extern "C" __attribute__((visibility("default")))

ROCMFORGE_EXPORT void rocmforge_set_exact(int value) { rocmforge::exact_flag = value != 0; }

ROCMFORGE_EXPORT void rocmforge_set_inputs_at_rest(int value) {
  rocmforge::inputs_at_rest_flag = value != 0;
}

ROCMFORGE_EXPORT const char* rocmforge_gpu_architectures() {
  return rocmforge::gpu_architectures();
}

ROCMFORGE_EXPORT const char* rocmforge_product_kernel(int device, int qtype, int64_t m, int64_t,
                                                      int64_t k) {
  return rocmforge::product_kernel_name(device, qtype, m, k);
}

// limits: those of matvec, multirow and tile.
ROCMFORGE_EXPORT void rocmforge_product_limits(int device, int qtype, int64_t* limits) {
  const rocmforge::ProductLimits found = rocmforge::product_limits(device, qtype);
  limits[0] = found.matvec, limits[1] = found.multirow, limits[2] = found.tile;
}

ROCMFORGE_EXPORT int rocmforge_most_fused_rows(int device, int qtype) {
  return static_cast<int>(rocmforge::product_limits(device, qtype).tile);
}

// Whether they are possible and were set.
ROCMFORGE_EXPORT int rocmforge_set_product_limits(int device, int qtype, const int64_t* limits) {
  return rocmforge::set_product_limits(device, qtype, {limits[0], limits[1], limits[2]});
}
