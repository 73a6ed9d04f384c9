#include "hip/dequantize.h"

#include "hip/convert.h"
#include "hip/dispatch.h"
#include "hip/quants/table.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;

// A thread writes one group of 16 weights: neighbouring threads write neighbouring memory where the
// type's groups follow each other.
template <class T, class View, typename Out>
__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(const uint8_t* __restrict__ w, int64_t w_rows, int64_t row_bytes, int cols,
                      const int64_t* __restrict__ ids, int64_t total, Out* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= total) return;
  const int steps = cols / (16 * T::kGroups);
  const int64_t at = i / steps;
  const int block = static_cast<int>(i % steps) / kSteps<T>, step = static_cast<int>(i % kSteps<T>);
  const int64_t row = ids ? ids[at] : at;
  const bool known = row >= 0 && row < w_rows;
  const typename T::Raw raw = T::load(View(w, w_rows, row_bytes, known ? row : 0), block, step);
  for_each_group<T::kGroups>([&](auto g) {
    const Group group = T::template decode<g>(raw, step);
    Out* to = out + at * cols + static_cast<int64_t>(block) * T::kBlock + T::template first<g>(step);
    const float scale = known ? group.scale : nanf("");
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const int code = static_cast<int8_t>(group.codes[j / 4] >> (8 * (j % 4))) - T::kOffset;
      float value = scale * static_cast<float>(code);
      if constexpr (T::kMins) value += group.min;
      to[j] = from_float<Out>(value);
    }
  });
}

}  // namespace

Status dequantize(const QuantMatrix& w, const int64_t* ids, int64_t count, DType dtype, void* out,
                  Stream stream) {
  const bool known = with_quant_type(w.qtype, [&](auto type) {
    using T = decltype(type);
    const int64_t total = count * (w.cols / (16 * T::kGroups));
    if (total == 0) return;
    const auto blocks = static_cast<unsigned>((total + kThreads - 1) / kThreads);
    with_dtype(dtype, [&](auto element) {
      using Out = decltype(element);
      const auto launch = [&](auto kernel) {
        kernel<<<blocks, kThreads, 0, static_cast<gpuStream_t>(stream)>>>(
            w.data, w.rows, w.row_bytes, static_cast<int>(w.cols), ids, total,
            static_cast<Out*>(out));
      };
      if (w.layout == 0) {
        launch(dequantize_kernel<T, FileView<T>, Out>);
      } else {
        launch(dequantize_kernel<T, PackedView<T>, Out>);
      }
    });
  });
  return known ? launch_status() : "no GPU kernel for this quantization type";
}

}  // namespace rocmforge::gpu
