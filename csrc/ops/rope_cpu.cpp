#include <memory>
#include <vector>

#include "cpu/dispatch.h"
#include "ops/result.h"
#include "ops/rope_checks.h"
#include "ops/rope_positions_cpu.h"
#include "ops/tensor_utils_cpu.h"

namespace rocmforge {
namespace {

Tensor rope(const Result& result, const Tensor& x, const Tensor& positions, const Tensor& inv_freq,
            bool interleaved, double scale) {
  check_rope("rope", "x", x, positions, inv_freq);
  Tensor out = result.tensor("rope", x.sizes(), x.scalar_type(), x);
  if (x.numel() == 0) return out;
  const RowView in = row_view(x, 2);
  const Tensor frequencies = as_contiguous(inv_freq);
  const std::vector<int64_t> places = as_int64(positions);
  cpu::RopeArgs args;
  args.dtype = cpu_dtype(x);
  args.tokens = in.rows;
  args.head_stride = in.tensor.stride(x.dim() - 2);
  args.heads = x.size(x.dim() - 2);
  args.head_dim = x.size(x.dim() - 1);
  args.positions = places.data();
  args.num_positions = static_cast<int64_t>(places.size());
  args.inv_freq = static_cast<const float*>(frequencies.const_data_ptr());
  args.pairs = inv_freq.size(0);
  args.interleaved = interleaved;
  args.scale = static_cast<float>(scale);
  args.out = out.mutable_data_ptr();
  parallel(in.count, 2 * args.heads * args.head_dim, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[2 * (args.pairs + 8)]);
    cpu::glue_kernels().rope(args, begin, end, scratch.get());
  });
  return out;
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) { rocmforge::implement<&rocmforge::rope>(m, "rope"); }
