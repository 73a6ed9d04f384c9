// In-place updates. Places are checked before anything is written.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "ops/cache_writer_cpu.h"

namespace rocmforge {
namespace {

// Where row `row` of the leading dimensions [first, dim - 1) stands, in elements.
int64_t row_offset(const Tensor& t, int64_t row, int64_t first) {
  int64_t offset = 0;
  for (int64_t i = t.dim() - 2; i >= first; --i) {
    offset += row % t.size(i) * t.stride(i);
    row /= t.size(i);
  }
  return offset;
}

void accumulate_(Tensor dst, const Tensor& src, const Tensor& offset) {
  constexpr const char* op = "accumulate_";
  check_accumulate(dst, src, offset);
  const int64_t n = src.size(0), limit = dst.size(0) - n;
  const int64_t start = *static_cast<const int64_t*>(offset.const_data_ptr());
  check(0 <= start && start <= limit, op, "offset must be between 0 and ", limit, " for ", n,
        " rows of src to fit into dst's ", dst.size(0), ", got ", start);

  if (src.numel() == 0) return;
  const auto kernel = cpu::glue_kernels().accumulate;
  const cpu::DType dtype = cpu_dtype(dst);
  const auto size = static_cast<int64_t>(dst.element_size());
  void* to = at(dst.mutable_data_ptr(), start * dst.stride(0), size);
  const void* from = src.const_data_ptr();
  if (dst.is_contiguous() && src.is_contiguous()) {
    parallel(src.numel(), 1, [&](int64_t begin, int64_t end) {
      kernel(dtype, at(from, begin, size), at(to, begin, size), end - begin);
    });
    return;
  }
  const int64_t width = src.size(src.dim() - 1);
  const bool whole_rows = width == 1 || (last_stride(dst) == 1 && last_stride(src) == 1);
  const int64_t step = whole_rows ? width : 1;
  for (int64_t row = 0; row < src.numel() / width; ++row) {
    const int64_t dst_row = row_offset(dst, row, 0), src_row = row_offset(src, row, 0);
    for (int64_t i = 0; i < width; i += step) {
      kernel(dtype, at(from, src_row + i * last_stride(src), size),
             at(to, dst_row + i * last_stride(dst), size), step);
    }
  }
}

// Token i of `tokens` goes to slots[i] of `cache`.
void write(const Tensor& cache, CacheType type, const Tensor& tokens,
           const std::vector<int64_t>& slots) {
  const Tensor fresh = holds_blocks(cache) ? contiguous_rows(tokens) : tokens;
  const int64_t heads = cache.size(2), width = fresh.size(fresh.dim() - 1);
  if (heads * width == 0) return;
  const HeadWriter write_head(cache, type, fresh, width, last_stride(fresh));
  const auto size = static_cast<int64_t>(fresh.element_size());
  parallel(static_cast<int64_t>(slots.size()), heads * width, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t source = row_offset(fresh, token * heads + head, 0);
        write_head(slots[token], head, at(fresh.const_data_ptr(), source, size));
      }
    }
  });
}

void kv_cache_write_(Tensor k_cache, Tensor v_cache, const Tensor& k, const Tensor& v,
                     const Tensor& slots) {
  constexpr const char* op = "kv_cache_write_";
  const CacheWriteArgs args = check_kv_cache_write(op, k_cache, v_cache, k, v, slots);
  const std::vector<int64_t> targets = checked_slots(op, slots, k_cache);
  write(k_cache, args.k_type, k, targets);
  write(v_cache, args.v_type, v, targets);
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) {
  m.impl("accumulate_", TORCH_BOX(&rocmforge::accumulate_));
  m.impl("kv_cache_write_", TORCH_BOX(&rocmforge::kv_cache_write_));
}
