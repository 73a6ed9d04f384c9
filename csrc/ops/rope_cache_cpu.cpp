// Norm, rotation and cache write of one token after the other: the kernels of the three ops.
#include <torch/csrc/stable/library.h>

#include <memory>
#include <vector>

#include "ops/cache_writer_cpu.h"
#include "ops/result.h"
#include "ops/rope_cache_checks.h"
#include "ops/rope_positions_cpu.h"

namespace rocmforge {
namespace {

// The heads of query or key, with the norm that they go through first.
class Heads {
 public:
  Heads(const Tensor& x, const std::optional<Tensor>& norm, double eps)
      : view_(row_view(x, 2)),
        dtype_(cpu_dtype(x)),
        size_(static_cast<int64_t>(x.element_size())),
        count_(x.size(x.dim() - 2)),
        dim_(x.size(x.dim() - 1)),
        eps_(static_cast<float>(eps)) {
    if (norm) norm_ = as_contiguous(*norm);
  }

  int64_t values() const { return count_ * dim_; }
  int64_t bytes() const { return values() * size_; }

  // Those of one token, normed and rotated, to `out`; `rotation` says how, and where it stands.
  void rotate(int64_t token, cpu::RopeArgs rotation, void* out, float* scratch) const {
    const cpu::GlueKernels& kernels = cpu::glue_kernels();
    const int64_t first = view_.rows.offset(token),
                  stride = view_.tensor.stride(view_.tensor.dim() - 2);
    cpu::Rows heads = {at(view_.rows.data, first, size_), count_, 0, stride};
    if (norm_) {
      kernels.rms_norm(dtype_, heads, nullptr, cpu_dtype(*norm_), norm_->const_data_ptr(), nullptr,
                       eps_, out, nullptr, dim_, 0, count_);
      heads = {out, count_, 0, dim_};
    }
    rotation.dtype = dtype_;
    rotation.tokens = {heads.data, 1, 0, 0};
    rotation.head_stride = heads.inner_stride;
    rotation.heads = count_;
    rotation.head_dim = dim_;
    rotation.out = out;
    kernels.rope(rotation, 0, 1, scratch);
  }

 private:
  RowView view_;
  cpu::DType dtype_;
  int64_t size_, count_, dim_;
  float eps_;
  std::optional<Tensor> norm_;
};

Tensor rope_kv_cache_write_(Tensor k_cache, Tensor v_cache, const Tensor& q, const Tensor& k,
                            const Tensor& v, const Tensor& slots, const Tensor& positions,
                            const Tensor& inv_freq, bool interleaved, double scale,
                            const std::optional<Tensor>& q_norm,
                            const std::optional<Tensor>& k_norm, double eps) {
  constexpr const char* op = "rope_kv_cache_write_";
  const CacheWriteArgs args = check_rope_kv_cache_write(op, k_cache, v_cache, q, k, v, slots,
                                                        positions, inv_freq, q_norm, k_norm);
  const std::vector<int64_t> targets = checked_slots(op, slots, k_cache);
  Tensor out = empty_on_cpu(q.sizes(), q.scalar_type());
  if (args.tokens == 0) return out;

  const std::vector<int64_t> places = as_int64(positions);
  const Tensor frequencies = as_contiguous(inv_freq);
  cpu::RopeArgs rotation = {};
  rotation.num_positions = 1;
  rotation.inv_freq = static_cast<const float*>(frequencies.const_data_ptr());
  rotation.pairs = inv_freq.numel();
  rotation.interleaved = interleaved;
  rotation.scale = static_cast<float>(scale);

  const Heads queries(q, q_norm, eps), keys(k, k_norm, eps);
  const RowView values = row_view(v, 2);
  const int64_t heads = k_cache.size(2), dim = q.size(q.dim() - 1), v_dim = v.size(v.dim() - 1);
  const auto size = static_cast<int64_t>(q.element_size());
  const HeadWriter write_key(k_cache, args.k_type, k, dim, 1);
  const HeadWriter write_value(v_cache, args.v_type, v, v_dim, 1);
  void* rotated = out.mutable_data_ptr();
  const int64_t work = 3 * (queries.values() + keys.values()) + heads * v_dim;
  parallel(args.tokens, work, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[2 * (rotation.pairs + 8)]);
    const std::unique_ptr<char[]> key(new char[keys.bytes()]);
    cpu::RopeArgs here = rotation;
    for (int64_t token = begin; token < end; ++token) {
      here.positions = &places[token % static_cast<int64_t>(places.size())];
      queries.rotate(token, here, at(rotated, token * queries.values(), size), scratch.get());
      keys.rotate(token, here, key.get(), scratch.get());
      const int64_t first_value = values.rows.offset(token);
      for (int64_t head = 0; head < heads; ++head) {
        write_key(targets[token], head, at<const void>(key.get(), head * dim, size));
        const int64_t value = first_value + head * values.tensor.stride(v.dim() - 2);
        write_value(targets[token], head, at(values.rows.data, value, size));
      }
    }
  });
  return out;
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) {
  m.impl("rope_kv_cache_write_", TORCH_BOX(&rocmforge::rope_kv_cache_write_));
}
