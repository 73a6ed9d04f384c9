#include "hip/norm.h"

#include "hip/convert.h"
#include "hip/dispatch.h"
#include "hip/reduce.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;

template <typename T, typename W>
__global__ void __launch_bounds__(kThreads)
    rms_norm_kernel(const T* __restrict__ x, int64_t stride, const W* __restrict__ weight,
                    float eps, T* __restrict__ out, int width) {
  const T* row = x + blockIdx.x * stride;
  T* out_row = out + static_cast<int64_t>(blockIdx.x) * width;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < width; i += kThreads) {
    const float value = to_float(row[i]);
    squares += value * value;
  }
  const float scale = rsqrtf(block_sum<kThreads>(squares) / width + eps);
  for (int i = threadIdx.x; i < width; i += kThreads) {
    const float value = to_float(row[i]) * scale;
    out_row[i] = from_float<T>(weight ? value * to_float(weight[i]) : value);
  }
}

}  // namespace

Status rms_norm(DType dtype, const void* x, int64_t stride, DType weight_dtype, const void* weight,
                float eps, void* out, int64_t rows, int64_t width, Stream stream) {
  if (rows == 0 || width == 0) return nullptr;
  with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    const auto launch = [&](auto weight_element) {
      using W = decltype(weight_element);
      rms_norm_kernel<T, W><<<static_cast<unsigned>(rows), kThreads, 0,
                              static_cast<gpuStream_t>(stream)>>>(
          static_cast<const T*>(x), stride, static_cast<const W*>(weight), eps,
          static_cast<T*>(out), static_cast<int>(width));
    };
    if (weight_dtype == DType::kFloat32) {
      launch(float{});
    } else {
      launch(element);
    }
  });
  return launch_status();
}

}  // namespace rocmforge::gpu
