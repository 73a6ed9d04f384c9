// In-place updates. Places are checked before anything is written.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "cpu/dispatch.h"
#include "cpu/quantize/quantize.h"
#include "ops/cache_checks.h"
#include "ops/tensor_utils_cpu.h"

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

template <typename T>
T* at(T* data, int64_t offset, const Tensor& t) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<Byte*>(data) + offset * static_cast<int64_t>(t.element_size());
}

int64_t last_stride(const Tensor& t) { return t.stride(t.dim() - 1); }

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
  void* to = at(dst.mutable_data_ptr(), start * dst.stride(0), dst);
  const void* from = src.const_data_ptr();
  if (dst.is_contiguous() && src.is_contiguous()) {
    parallel(src.numel(), 1, [&](int64_t begin, int64_t end) {
      kernel(dtype, at(from, begin, src), at(to, begin, dst), end - begin);
    });
    return;
  }
  const int64_t width = src.size(src.dim() - 1);
  const bool whole_rows = width == 1 || (last_stride(dst) == 1 && last_stride(src) == 1);
  const int64_t step = whole_rows ? width : 1;
  for (int64_t row = 0; row < src.numel() / width; ++row) {
    const int64_t dst_row = row_offset(dst, row, 0), src_row = row_offset(src, row, 0);
    for (int64_t i = 0; i < width; i += step) {
      kernel(dtype, at(from, src_row + i * last_stride(src), src),
             at(to, dst_row + i * last_stride(dst), dst), step);
    }
  }
}

// Elements [offset, offset + count) of `fresh`, neighbours, to `target` elements of `cache`.
class RowWriter {
 public:
  RowWriter(const Tensor& cache, CacheType type, const Tensor& fresh)
      : cache_(cache), fresh_(fresh), type_(type), from_(cpu_dtype(fresh)) {
    if (!holds_blocks(cache)) return;
    blocks_ = cpu::find_quantizer(type == CacheType::kQ8_0 ? 8 : 2);
  }

  void operator()(int64_t offset, int64_t target, int64_t count) const {
    const void* in = at(fresh_.const_data_ptr(), offset, fresh_);
    void* out = at(cache_.mutable_data_ptr(), target, cache_);
    const auto convert = cpu::glue_kernels().convert;
    if (blocks_ == nullptr) return convert(from_, in, type_, out, count);
    float values[kCacheBlock];
    for (int64_t i = 0; i < count; i += kCacheBlock) {
      convert(from_, at(in, i, fresh_), CacheType::kFloat32, values, kCacheBlock);
      auto* block = static_cast<uint8_t*>(out) + i / kCacheBlock * blocks_->block_bytes;
      blocks_->quantize(values, block);
    }
  }

 private:
  const Tensor& cache_;
  const Tensor& fresh_;
  CacheType type_;
  cpu::DType from_;
  const cpu::Quantizer* blocks_ = nullptr;
};

// Token i of `fresh` goes to slots[i] of `cache`.
void write(const Tensor& cache, CacheType type, const Tensor& tokens,
           const std::vector<int64_t>& slots) {
  const bool blocks = holds_blocks(cache);
  const Tensor fresh = blocks ? contiguous_rows(tokens) : tokens;
  const int64_t heads = cache.size(2), width = fresh.size(fresh.dim() - 1);
  const int64_t positions = cache.size(1);
  if (heads * width == 0) return;
  const RowWriter write_row(cache, type, fresh);
  const bool whole_rows =
      blocks || width == 1 || (last_stride(cache) == 1 && last_stride(fresh) == 1);
  const int64_t step = whole_rows ? width : 1;
  const int64_t count = static_cast<int64_t>(slots.size());
  parallel(count, heads * width, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      if (slots[token] < 0) continue;
      const int64_t place =
          slots[token] / positions * cache.stride(0) + slots[token] % positions * cache.stride(1);
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t source = row_offset(fresh, token * heads + head, 0);
        const int64_t target = place + head * cache.stride(2);
        for (int64_t i = 0; i < width; i += step) {
          write_row(source + i * last_stride(fresh), target + i * last_stride(cache), step);
        }
      }
    }
  });
}

void kv_cache_write_(Tensor k_cache, Tensor v_cache, const Tensor& k, const Tensor& v,
                     const Tensor& slots) {
  constexpr const char* op = "kv_cache_write_";
  const CacheWriteArgs args = check_kv_cache_write(k_cache, v_cache, k, v, slots);
  const Tensor flat = as_contiguous(slots);
  const int64_t* places = static_cast<const int64_t*>(flat.const_data_ptr());
  const std::vector<int64_t> targets(places, places + args.tokens);
  const int64_t room = k_cache.size(0) * k_cache.size(1);
  for (int64_t slot : targets) {
    check(slot < room, op, "slots must be less than the ", room, " places of the cache, got ",
          slot);
  }
  write(k_cache, args.k_type, k, targets);
  write(v_cache, args.v_type, v, targets);
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) {
  m.impl("accumulate_", TORCH_BOX(&rocmforge::accumulate_));
  m.impl("kv_cache_write_", TORCH_BOX(&rocmforge::kv_cache_write_));
}
