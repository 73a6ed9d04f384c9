// How the CPU registrations write heads into a cache of any format and strides.
#pragma once

#include <vector>

#include "cpu/dispatch.h"
#include "cpu/quantize/quantize.h"
#include "ops/cache_checks.h"
#include "ops/tensor_utils_cpu.h"

namespace rocmforge {

template <typename T>
T* at(T* data, int64_t offset, int64_t element_size) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<Byte*>(data) + offset * element_size;
}

inline int64_t last_stride(const Tensor& t) { return t.stride(t.dim() - 1); }

// The slots in the order of the tokens, each of which must be inside of the cache or negative.
inline std::vector<int64_t> checked_slots(const char* op, const Tensor& slots,
                                          const Tensor& cache) {
  const Tensor flat = as_contiguous(slots);
  const int64_t* places = static_cast<const int64_t*>(flat.const_data_ptr());
  const std::vector<int64_t> targets(places, places + flat.numel());
  const int64_t room = cache.size(0) * cache.size(1);
  for (int64_t slot : targets) {
    check(slot < room, op, "slots must be less than the ", room, " places of the cache, got ",
          slot);
  }
  return targets;
}

// Writes heads of `width` values of `like`'s dtype, `stride` elements apart (1 for a cache of
// blocks).
class HeadWriter {
 public:
  HeadWriter(const Tensor& cache, CacheType type, const Tensor& like, int64_t width, int64_t stride)
      : cache_(cache),
        type_(type),
        from_(cpu_dtype(like)),
        from_size_(static_cast<int64_t>(like.element_size())),
        width_(width),
        stride_(stride) {
    if (holds_blocks(cache)) blocks_ = cpu::find_quantizer(type == CacheType::kQ8_0 ? 8 : 2);
    const bool neighbours = stride == 1 && last_stride(cache) == 1;
    step_ = blocks_ || width == 1 || neighbours ? width : 1;
  }

  // A negative slot is passed over.
  void operator()(int64_t slot, int64_t head, const void* values) const {
    if (slot < 0) return;
    const int64_t positions = cache_.size(1);
    const int64_t target = slot / positions * cache_.stride(0) +
                           slot % positions * cache_.stride(1) + head * cache_.stride(2);
    for (int64_t i = 0; i < width_; i += step_) {
      write(at(values, i * stride_, from_size_), target + i * last_stride(cache_));
    }
  }

 private:
  // `step_` neighbours.
  void write(const void* in, int64_t target) const {
    const auto cache_size = static_cast<int64_t>(cache_.element_size());
    void* out = at(cache_.mutable_data_ptr(), target, cache_size);
    const auto convert = cpu::glue_kernels().convert;
    if (blocks_ == nullptr) return convert(from_, in, type_, out, step_);
    float values[kCacheBlock];
    for (int64_t i = 0; i < step_; i += kCacheBlock) {
      convert(from_, at(in, i, from_size_), CacheType::kFloat32, values, kCacheBlock);
      auto* block = static_cast<uint8_t*>(out) + i / kCacheBlock * blocks_->block_bytes;
      blocks_->quantize(values, block);
    }
  }

  const Tensor& cache_;
  CacheType type_;
  cpu::DType from_;
  int64_t from_size_, width_, stride_, step_;
  const cpu::Quantizer* blocks_ = nullptr;
};

}  // namespace rocmforge
