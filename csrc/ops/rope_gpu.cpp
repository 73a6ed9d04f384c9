#include "hip/rope.h"
#include "ops/gpu.h"
#include "ops/gpu_rows.h"
#include "ops/result.h"
#include "ops/rope_checks.h"

namespace rocmforge {
namespace {

Tensor rope(const Result& result, const Tensor& x, const Tensor& positions, const Tensor& inv_freq,
            bool interleaved, double scale) {
  check_rope("rope", "x", x, positions, inv_freq);
  Tensor out = result.tensor("rope", x.sizes(), x.scalar_type(), x);
  if (x.numel() == 0) return out;
  const GpuLaunch launch("rope", x);
  const GpuRows tokens(x, 2);
  const Tensor places = torch::stable::contiguous(positions);
  const Tensor frequencies = torch::stable::contiguous(inv_freq);
  const int64_t dims = x.dim();
  launch.done(gpu::rope(gpu_dtype(x), tokens.data(), &tokens.layout, tokens.tensor.stride(dims - 2),
                        places.scalar_type() == ScalarType::Long, places.const_data_ptr(),
                        places.numel(), static_cast<const float*>(frequencies.const_data_ptr()),
                        frequencies.numel(), interleaved, static_cast<float>(scale),
                        out.mutable_data_ptr(), tokens.count, x.size(dims - 2), x.size(dims - 1),
                        launch.stream()));
  return out;
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) { rocmforge::implement<&rocmforge::rope>(m, "rope"); }
