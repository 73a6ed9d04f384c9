// In-place updates. Places are known to the device alone: nothing is written outside.
#include "ops/cache_gpu.h"

#include <torch/csrc/stable/library.h>

namespace rocmforge {
namespace {

// The dimensions of src, those that are one run in both tensors joined.
gpu::SharedLayout shared_layout(const char* op, const Tensor& dst, const Tensor& src) {
  gpu::SharedLayout layout = {};
  for (int64_t i = 0; i < src.dim(); ++i) {
    const int64_t size = src.size(i), to = dst.stride(i), from = src.stride(i);
    if (size == 1) continue;
    const int64_t last = layout.dims - 1;
    if (last >= 0 && layout.dst_strides[last] == size * to &&
        layout.src_strides[last] == size * from) {
      layout.sizes[last] *= size;
      layout.dst_strides[last] = to;
      layout.src_strides[last] = from;
      continue;
    }
    check(layout.dims < gpu::kMaxDims, op, "dst and src must be views of at most ", gpu::kMaxDims,
          " levels of stride");
    layout.sizes[layout.dims] = size;
    layout.dst_strides[layout.dims] = to;
    layout.src_strides[layout.dims++] = from;
  }
  return layout;
}

void accumulate_(Tensor dst, const Tensor& src, const Tensor& offset) {
  constexpr const char* op = "accumulate_";
  check_accumulate(dst, src, offset);
  if (src.numel() == 0) return;
  const gpu::SharedLayout layout = shared_layout(op, dst, src);
  const GpuLaunch launch(op, dst);
  launch.done(gpu::accumulate(gpu_dtype(dst), dst.mutable_data_ptr(), src.const_data_ptr(),
                              static_cast<const int64_t*>(offset.const_data_ptr()),
                              dst.size(0) - src.size(0), dst.stride(0), &layout, launch.stream()));
}

void kv_cache_write_(Tensor k_cache, Tensor v_cache, const Tensor& k, const Tensor& v,
                     const Tensor& slots) {
  constexpr const char* op = "kv_cache_write_";
  const CacheWriteArgs args = check_kv_cache_write(op, k_cache, v_cache, k, v, slots);
  const int64_t heads = k_cache.size(2);
  for (const Tensor* fresh : {&k, &v}) check_token_size(op, *fresh);
  if (args.tokens == 0 || k.numel() + v.numel() == 0) return;
  const GpuLaunch launch(op, k);
  const GpuRows keys(k, 2), values(v, 2);
  const Tensor places = torch::stable::contiguous(slots);
  const gpu::CacheTarget k_target = cache_target(args.k_type, k_cache, keys);
  const gpu::CacheTarget v_target = cache_target(args.v_type, v_cache, values);
  launch.done(gpu::kv_cache_write(
      &k_target, &v_target, gpu_dtype(k), static_cast<const int64_t*>(places.const_data_ptr()),
      args.tokens, k_cache.size(0) * k_cache.size(1), k_cache.size(1), heads, launch.stream()));
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  m.impl("accumulate_", TORCH_BOX(&rocmforge::accumulate_));
  m.impl("kv_cache_write_", TORCH_BOX(&rocmforge::kv_cache_write_));
}
