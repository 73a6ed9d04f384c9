#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/dequantize.h"
#include "hip/dispatch.h"
#include "hip/quants/table.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;

struct Target {
  DType dtype;
  void* data;
};

template <typename Out>
__device__ __forceinline__ void store16(void* data, int64_t at, const float (&values)[16]) {
  constexpr int kCount = kChunk<Out>;
  auto* to = static_cast<Out*>(data) + at;  // at is a multiple of 16
#pragma unroll
  for (int i = 0; i < 16; i += kCount) {
    Chunk<Out, kCount> chunk;
#pragma unroll
    for (int j = 0; j < kCount; ++j) chunk.values[j] = from_float<Out>(values[i + j]);
    *reinterpret_cast<Chunk<Out, kCount>*>(to + i) = chunk;
  }
}

__device__ __forceinline__ void store16(const Target& out, int64_t at, const float (&values)[16]) {
  switch (out.dtype) {
    case DType::kFloat32:
      return store16<float>(out.data, at, values);
    case DType::kFloat16:
      return store16<__half>(out.data, at, values);
    case DType::kBFloat16:
      return store16<gpu_bfloat16>(out.data, at, values);
  }
}

// A thread writes the groups of one step. The output type is a branch of the last instructions, not
// a template argument: the work is in the memory.
template <class T, class View>
__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(const uint8_t* __restrict__ w, int64_t w_rows, int64_t row_bytes, int cols,
                      int64_t first, const int64_t* __restrict__ ids, int64_t total, Target out) {
  follow_previous();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= total) return;
  const int steps = cols / (16 * T::kGroups);
  const int64_t at = i / steps;
  const int s = static_cast<int>(i - at * steps), block = s / kSteps<T>, step = s % kSteps<T>;
  const int64_t row = ids ? ids[at] : first + at;
  const bool known = row >= 0 && row < w_rows;
  const typename T::Raw raw = T::load(View(w, w_rows, row_bytes, known ? row : 0), block, step);
  for_each_group<T::kGroups>([&](auto g) {
    const Group group = T::template decode<g>(raw, step);
    const float scale = known ? group.scale : nanf("");
    float values[16];
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const int code = static_cast<int8_t>(group.codes[j / 4] >> (8 * (j % 4))) - T::kOffset;
      values[j] = mul_rn(scale, static_cast<float>(code));
      if constexpr (T::kMins) values[j] = add_rn(values[j], group.min);
    }
    store16(out, at * cols + block * T::kBlock + T::template first<g>(step), values);
  });
}

// Rows of plain numbers, with the alignment of one number.
template <typename In>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(const uint8_t* __restrict__ w, int64_t w_rows, int64_t row_bytes, int cols,
                   int64_t first, const int64_t* __restrict__ ids, int64_t total, Target out) {
  follow_previous();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t at = i / cols, row = ids ? ids[at] : first + at;
  const bool known = row >= 0 && row < w_rows;
  const auto* values = reinterpret_cast<const In*>(w + (known ? row : 0) * row_bytes);
  store_as(out.dtype, out.data, i, known ? to_float(values[i - at * cols]) : nanf(""));
}

template <typename In>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const In* __restrict__ product, int64_t total, int cols, DType bias_dtype,
                  const void* bias, Target out, int64_t stride) {
  follow_previous();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= total) return;
  const int64_t row = i / cols, col = i - row * cols;
  const float shift = bias ? load_as(bias_dtype, bias, col) : 0.0f;
  store_as(out.dtype, out.data, row * stride + col, to_float(product[i]) + shift);
}

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

Status finish_product(DType product_dtype, const void* product, int64_t rows, int64_t cols,
                      DType bias_dtype, const void* bias, DType dtype, void* out, int64_t stride,
                      Stream stream) {
  const int64_t total = rows * cols;
  if (total == 0) return nullptr;
  with_dtype(product_dtype, [&](auto in) {
    using In = decltype(in);
    launch_early(finish_kernel<In>, blocks_for(total), kThreads, 0,
                 static_cast<gpuStream_t>(stream), static_cast<const In*>(product), total,
                 static_cast<int>(cols), bias_dtype, bias, Target{dtype, out}, stride);
  });
  return launch_status();
}

Status dequantize(const QuantMatrix& w, int64_t first, const int64_t* ids, int64_t count,
                  DType dtype, void* out, Stream stream) {
  if (count == 0 || w.cols == 0) return nullptr;
  const auto launch = [&](auto kernel, int64_t total) {
    launch_early(kernel, blocks_for(total), kThreads, 0, static_cast<gpuStream_t>(stream), w.data,
                 w.rows, w.row_bytes, static_cast<int>(w.cols), first, ids, total,
                 Target{dtype, out});
  };
  constexpr int kF32 = 0, kF16 = 1, kBF16 = 30;
  const bool known = with_type_of(AllQuants{}, w.qtype, [&](auto type) {
    using T = decltype(type);
    const int64_t total = count * (w.cols / (16 * T::kGroups));
    launch(w.layout == 0 ? dequantize_kernel<T, FileView<T>> : dequantize_kernel<T, PackedView<T>>,
           total);
  });
  if (w.qtype == kF32) {
    launch(convert_kernel<float>, count * w.cols);
  } else if (w.qtype == kF16) {
    launch(convert_kernel<__half>, count * w.cols);
  } else if (w.qtype == kBF16) {
    launch(convert_kernel<gpu_bfloat16>, count * w.cols);
  } else if (!known) {
    return "no GPU kernel for this quantization type";
  }
  return launch_status();
}

}  // namespace rocmforge::gpu
