#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/dequantize.h"
#include "hip/dispatch.h"
#include "hip/quants/table.h"
#include "hip/rounding.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 128;

struct Target {
  DType dtype;
  void* data;
};

// 16 values as pairs of 16 bits.
template <typename Out>
__device__ __forceinline__ void pack_values(const float (&values)[16], uint4 (&pieces)[2]) {
  uint32_t words[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) words[i] = pack_pair<Out>(values[2 * i], values[2 * i + 1]);
  pieces[0] = {words[0], words[1], words[2], words[3]};
  pieces[1] = {words[4], words[5], words[6], words[7]};
}

// Piece p of a wave's in LDS: lanes that write a piece each, or read neighbouring ones, meet no
// bank twice.
__device__ __forceinline__ int place_of(int p) {
  const int row = p / 8;
  return p ^ ((row ^ row / 8) & 7);
}

// A thread computes the groups of one step. Results of 16 bits go by way of LDS, so that a wave
// stores whole lines of memory: its steps are neighbours and so is what they expand to.
template <class T, class View>
__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(const uint8_t* w, int64_t w_rows, int64_t row_bytes, int cols, int64_t first,
                      const int64_t* ids, int64_t total, Target out) {
  constexpr int kPieces = 2 * T::kGroups;  // of 8 values, of a lane
  __shared__ uint4 memory[kThreads * kPieces];
  static_assert(kWaveSize % kSteps<T> == 0);
  follow_previous();
  const int lane = threadIdx.x % kWaveSize, in_block = threadIdx.x - lane;
  const int64_t wave_first = static_cast<int64_t>(blockIdx.x) * kThreads + in_block;
  uint4* const pieces = memory + in_block * kPieces;
  const bool wide = out.dtype == DType::kFloat32;
  if (wave_first + lane < total) {
    const auto i = static_cast<uint32_t>(wave_first + lane);
    const auto blocks = static_cast<uint32_t>(cols / T::kBlock);
    const uint32_t at = i / kSteps<T> / blocks, block = i / kSteps<T> - at * blocks;
    const int step = static_cast<int>(i % kSteps<T>);
    const int64_t row = ids ? ids[at] : first + at;
    const bool known = row >= 0 && row < w_rows;
    const View view(w, w_rows, row_bytes, known ? row : 0);
    const typename T::Raw raw = T::load(view, static_cast<int>(block), step);
    for_each_group<T::kGroups>([&](auto g) {
      const Group group = T::template decode<g>(raw, step);
      const float scale = known ? group.scale : nanf("");
      float values[16];
      for_each_group<16>([&](auto j) {
        const uint32_t codes = static_cast<uint32_t>(group.codes[j / 4]) ^ 0x80808080;
        const float code = byte_value<j % 4>(codes, 1.0f, -128.0f - T::kOffset);
        values[j] = mul_rn(scale, code);
        if constexpr (T::kMins) values[j] = add_rn(values[j], group.min);
      });
      const int in_wave = lane / kSteps<T> * T::kBlock + T::template first<g>(step);
      if (wide) {
        auto* const to =
            static_cast<float4*>(out.data) + (wave_first * (16 * T::kGroups) + in_wave) / 4;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          to[j % 2 + j / 2 * (kHalfApart<T> / 4)] = {values[4 * j], values[4 * j + 1],
                                                     values[4 * j + 2], values[4 * j + 3]};
        }
      } else {
        uint4 packed[2];
        out.dtype == DType::kFloat16 ? pack_values<__half>(values, packed)
                                     : pack_values<gpu_bfloat16>(values, packed);
        pieces[place_of(in_wave / 8)] = packed[0];
        pieces[place_of((in_wave + kHalfApart<T>) / 8)] = packed[1];
      }
    });
  }
  if (wide) return;
  wave_barrier();
  const int64_t left = (total - wave_first) * kPieces;
  auto* const to = static_cast<uint4*>(out.data) + wave_first * kPieces;
#pragma unroll
  for (int j = 0; j < kPieces; ++j) {
    const int p = j * kWaveSize + lane;
    if (p < left) to[p] = pieces[place_of(p)];
  }
}

// Rows of plain numbers, with the alignment of one number, or of 16 bytes as that of what they
// become. A row takes row_blocks blocks.
template <bool kAligned>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(DType from, const uint8_t* w, int64_t w_rows, int64_t row_bytes, int cols,
                   int row_blocks, int64_t first, const int64_t* ids, Target out) {
  follow_previous();
  constexpr int kCount = kAligned ? kRoundedAtOnce : 1;
  const int at = static_cast<int>(blockIdx.x) / row_blocks;
  const int in_row = static_cast<int>(blockIdx.x) - at * row_blocks;
  const int col = (in_row * kThreads + static_cast<int>(threadIdx.x)) * kCount;
  if (col >= cols) return;
  const int64_t row = ids ? ids[at] : first + at, to = int64_t{at} * cols + col;
  const bool known = row >= 0 && row < w_rows;
  const uint8_t* const values_of_row = w + (known ? row : 0) * row_bytes;
  if constexpr (kAligned) {
    float values[kCount];
    values_of(from, load_words_of(from, values_of_row, col), values);
    if (!known) {
#pragma unroll
      for (float& value : values) value = nanf("");
    }
    store_words_of(out.dtype, out.data, to, words_of(out.dtype, values));
  } else {
    const float value = load_as(from, values_of_row, col);
    store_as(out.dtype, out.data, to, known ? value : nanf(""));
  }
}

template <typename In>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const In* product, int64_t total, int cols, DType bias_dtype, const void* bias,
                  Target out, int64_t stride) {
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

// dequantize() of types that are plain numbers.
Status convert(const QuantMatrix& w, int64_t first, const int64_t* ids, int64_t count,
               const Target& out, Stream stream) {
  constexpr int kF32 = 0, kF16 = 1, kBF16 = 30;
  if (w.qtype != kF32 && w.qtype != kF16 && w.qtype != kBF16) {
    return "no GPU kernel for this quantization type";
  }
  const DType from = w.qtype == kF32   ? DType::kFloat32
                     : w.qtype == kF16 ? DType::kFloat16
                                       : DType::kBFloat16;
  const bool aligned =
      w.cols % kRoundedAtOnce == 0 && is_aligned(w.data, w.row_bytes) && is_aligned(out.data);
  const int64_t row_blocks = blocks_for(aligned ? w.cols / kRoundedAtOnce : w.cols);
  if (count * row_blocks > INT32_MAX) return "too many weights to expand at once";
  with_bool(aligned, [&](auto is_aligned) {
    launch_early(convert_kernel<decltype(is_aligned)::value>,
                 static_cast<unsigned>(count * row_blocks), kThreads, 0,
                 static_cast<gpuStream_t>(stream), from, w.data, w.rows, w.row_bytes,
                 static_cast<int>(w.cols), static_cast<int>(row_blocks), first, ids, out);
  });
  return launch_status();
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
  constexpr int kFewest = 32;  // weights of a step
  if (count * w.cols / kFewest > int64_t{UINT32_MAX}) return "too many weights to expand at once";
  const bool known = with_type_of(AllQuants{}, w.qtype, [&](auto type) {
    using T = decltype(type);
    const int64_t total = count * (w.cols / (16 * T::kGroups));
    launch_early(
        w.layout == 0 ? dequantize_kernel<T, FileView<T>> : dequantize_kernel<T, PackedView<T>>,
        blocks_for(total), kThreads, 0, static_cast<gpuStream_t>(stream), w.data, w.rows,
        w.row_bytes, static_cast<int>(w.cols), first, ids, total, Target{dtype, out});
  });
  return known ? launch_status() : convert(w, first, ids, count, {dtype, out}, stream);
}

}  // namespace rocmforge::gpu
