#include "ops/quant_product_cpu.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

namespace rocmforge {
namespace {

using cpu::DType;
using cpu::kChunk;
using cpu::QuantizedRows;
using cpu::QuantKernels;
using cpu::QuantTypeKernels;
using torch::stable::parallel_for;

// Up to this many activation rows meet the weights as they come; more, and interleaving the weights
// first pays. Two, as long as `dot` has that many variants.
constexpr int64_t kDotRows = 2;
constexpr int64_t kExactRows = 16;  // weight rows in float at a time
constexpr int64_t kBlockRows = 16;  // weight rows that threads divide: one cache line of results

// Products of fewer multiplications are always exact, with sums in float64: rounding activations or
// sums would save nothing, and so few results do not average the error out.
constexpr int64_t kSmallProduct = 1 << 17;

// A thread is worth waking for this many bytes of weights, or multiplications.
constexpr int64_t kGrainBytes = 96 << 10;
constexpr int64_t kGrainOps = 2 << 20;

// x as float32: x itself, or a copy.
const float* as_float(const void* x, int64_t count, DType dtype, Buffer<float>& copy) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(x);
  copy = Buffer<float>(count);
  cpu::quant_kernels().to_float(dtype, x, copy.get(), count);
  return copy.get();
}

int64_t element_size(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Activations in memory of their own.
class Activations {
 public:
  // Tiles of 1 are for `dot`, larger ones for `panel_product`.
  Activations(const float* x, int64_t m, int64_t k, const QuantTypeKernels& type, int max_tile)
      : m_(m),
        chunks_(k / kChunk),
        subs_(kChunk / type.sub_block),
        lane_starts_(max_tile == 1),
        memory_(bytes()) {
    const QuantizedRows all = rows();
    const int64_t tiles = divide_up(m, max_tile);
    parallel_for(0, tiles, divide_up(kGrainOps / 16, k * max_tile), [&](int64_t a, int64_t b) {
      const int64_t end = std::min(m, b * max_tile);
      int tile;
      for (int64_t row = a * max_tile; row < end; row += tile) {
        tile = cpu::next_tile(m - row, max_tile);
        cpu::quant_kernels().quantize_tile(x + row * k, k, tile, type, row, all);
      }
    });
  }

  QuantizedRows rows() const {
    const int64_t entries = m_ * chunks_;
    int8_t* codes = memory_.get();
    auto* starts = reinterpret_cast<int32_t*>(codes + entries * kChunk);
    auto* scales = reinterpret_cast<float*>(starts + entries * 8);
    return {m_, chunks_, codes, scales, scales + entries * subs_, starts, lane_starts_};
  }

 private:
  int64_t bytes() const { return m_ * chunks_ * (kChunk + 8 * 4 + 2 * 4 * subs_); }

  int64_t m_, chunks_, subs_;
  bool lane_starts_;
  Buffer<int8_t> memory_;
};

// Runs f(first column, number of columns) over all columns of the output, in groups of `group`, on
// as many threads as the work is worth.
template <typename F>
void for_column_groups(const BlockMatrix& w, const ProductOutput& out, int64_t group, const F& f) {
  const int64_t rows = group * out.halves();
  const int64_t group_bytes = std::max<int64_t>(1, rows * w.row_bytes());
  const int64_t group_ops = std::max<int64_t>(1, rows * w.width() * out.m);
  const int64_t grain =
      std::max<int64_t>(1, std::min(kGrainBytes / group_bytes, kGrainOps / group_ops));
  parallel_for(0, divide_up(out.columns, group), grain, [&](int64_t a, int64_t b) {
    f(a * group, std::min(b * group, out.columns) - a * group);
  });
}

// Float weights, a few rows at a time. `small`: with sums in float64.
void multiply_exact(const BlockMatrix& w, const float* x, bool small, const ProductOutput& out) {
  const QuantKernels& kernels = cpu::quant_kernels();
  const auto product = small ? kernels.double_product : kernels.float_product;
  const int64_t k = w.width();
  for_column_groups(w, out, kExactRows, [&](int64_t begin, int64_t count) {
    const Buffer<float> values(kExactRows * k);
    const WeightRows weights(w, kExactRows);
    const Results results(out, kExactRows);
    for (int64_t n = begin; n < begin + count; n += kExactRows) {
      const int64_t rows = std::min(kExactRows, begin + count - n);
      for (int64_t half = 0; half < out.halves(); ++half) {
        const uint8_t* blocks = weights.at(half * out.columns + n, rows);
        for (int64_t r = 0; r < rows; ++r)
          w.type->dequantize(blocks + r * weights.stride(), w.row_blocks, values.get() + r * k);
        product(values.get(), rows, x, out.m, k, results.at(n, half), results.stride());
      }
      results.finish(n, rows);
    }
  });
}

// One or two rows: every weight is read once, unpacked in registers.
void multiply_dot(const BlockMatrix& w, const float* x, const ProductOutput& out) {
  const Activations activations(x, out.m, w.width(), *w.type, 1);
  const auto dot = w.type->dot[out.m - 1];
  for_column_groups(w, out, kBlockRows, [&](int64_t begin, int64_t count) {
    const int64_t step = w.packed ? kBlockRows : count;
    const WeightRows weights(w, step);
    const Results results(out, step);
    for (int64_t n = begin; n < begin + count; n += step) {
      const int64_t rows = std::min(step, begin + count - n);
      for (int64_t half = 0; half < out.halves(); ++half)
        dot(weights.at(half * out.columns + n, rows), weights.stride(), rows, activations.rows(),
            results.at(n, half), results.stride());
      results.finish(n, rows);
    }
  });
}

// Many rows: panels of interleaved weights against tiles of activations.
void multiply_panels(const BlockMatrix& w, const float* x, const ProductOutput& out) {
  const QuantKernels& kernels = cpu::quant_kernels();
  const Activations activations(x, out.m, w.width(), *w.type, kernels.max_tile);
  const QuantizedRows rows = activations.rows();
  for_column_groups(w, out, kernels.panel_rows, [&](int64_t begin, int64_t count) {
    const Buffer<uint8_t> panel(kernels.panel_bytes(*w.type, rows.chunks));
    const WeightRows weights(w, kernels.panel_rows);
    const Results results(out, kernels.panel_rows);
    for (int64_t n = begin; n < begin + count; n += kernels.panel_rows) {
      const int64_t part = std::min<int64_t>(kernels.panel_rows, begin + count - n);
      for (int64_t half = 0; half < out.halves(); ++half) {
        kernels.pack_panel(*w.type, weights.at(half * out.columns + n, part), weights.stride(),
                           part, rows.chunks, panel.get());
        kernels.panel_product(*w.type, panel.get(), part, rows, results.at(n, half),
                              results.stride());
      }
      results.finish(n, part);
    }
  });
}

}  // namespace

ProductKernel product_kernel(const QuantTypeKernels& type, int64_t m, int64_t n, int64_t k,
                             bool exact) {
  if (m * n * k < kSmallProduct) return ProductKernel::kSmall;
  if (exact || type.sub_block == 0) return ProductKernel::kFloat;
  return m <= kDotRows ? ProductKernel::kDot : ProductKernel::kPanels;
}

void multiply(const BlockMatrix& weights, const void* x, bool exact, const ProductOutput& out) {
  Buffer<float> copy(0);
  const float* values = as_float(x, out.m * weights.width(), out.dtype, copy);
  const auto kernel = product_kernel(*weights.type, out.m, weights.rows, weights.width(), exact);
  switch (kernel) {
    case ProductKernel::kDot:
      return multiply_dot(weights, values, out);
    case ProductKernel::kPanels:
      return multiply_panels(weights, values, out);
    case ProductKernel::kFloat:
    case ProductKernel::kSmall:
      return multiply_exact(weights, values, kernel == ProductKernel::kSmall, out);
  }
}

void multiply_transposed(const BlockMatrix& weights, const void* g, int64_t m, DType dtype,
                         void* out) {
  const QuantKernels& kernels = cpu::quant_kernels();
  const QuantTypeKernels& type = *weights.type;
  Buffer<float> copy(0);
  const float* values = as_float(g, m * weights.rows, dtype, copy);
  // Columns of blocks, narrow enough for the sums of a few hundred rows to stay in cache.
  const int64_t column = divide_up(256, type.block_size);
  const int64_t ops = std::max<int64_t>(1, column * type.block_size * weights.rows * m);
  parallel_for(0, divide_up(weights.row_blocks, column), divide_up(kGrainOps, ops),
               [&](int64_t a, int64_t b) {
                 const int64_t end = std::min(b * column, weights.row_blocks);
                 const int64_t k = weights.width(), max_width = column * type.block_size;
                 const Buffer<float> scratch((8 + m) * max_width);
                 const Buffer<float> sums(m * max_width);
                 for (int64_t block = a * column; block < end; block += column) {
                   const int64_t blocks = std::min(column, end - block);
                   const int64_t width = blocks * type.block_size;
                   kernels.transposed_product(type, weights.data + block * type.block_bytes,
                                              weights.stride, weights.rows, blocks, values,
                                              weights.rows, m, scratch.get(), sums.get(), width);
                   for (int64_t i = 0; i < m; ++i)
                     kernels.from_float(dtype, sums.get() + i * width,
                                        static_cast<char*>(out) +
                                            (i * k + block * type.block_size) * element_size(dtype),
                                        width);
                 }
               });
}

void dequantize_rows(const BlockMatrix& weights, const int64_t* ids, int64_t count, DType dtype,
                     void* out) {
  const QuantKernels& kernels = cpu::quant_kernels();
  const QuantTypeKernels& type = *weights.type;
  constexpr int64_t kPartElements = 4096;
  const int64_t k = weights.width();
  const int64_t part = std::max<int64_t>(1, kPartElements / type.block_size);
  const int64_t parts = divide_up(weights.row_blocks, part);  // of a row
  const int64_t grain = divide_up(kGrainBytes, std::min(k, kPartElements) * 4);
  parallel_for(0, count * parts, grain, [&](int64_t a, int64_t b) {
    const Buffer<float> values(dtype == DType::kFloat32 ? 0 : part * type.block_size);
    for (int64_t i = a; i < b; ++i) {
      const int64_t row = i / parts, block = i % parts * part;
      const int64_t blocks = std::min(part, weights.row_blocks - block);
      const uint8_t* in = weights.data + (ids ? ids[row] : row) * weights.stride;
      char* to =
          static_cast<char*>(out) + (row * k + block * type.block_size) * element_size(dtype);
      float* floats = dtype == DType::kFloat32 ? reinterpret_cast<float*>(to) : values.get();
      type.dequantize(in + block * type.block_bytes, blocks, floats);
      if (dtype != DType::kFloat32) kernels.from_float(dtype, floats, to, blocks * type.block_size);
    }
  });
}

}  // namespace rocmforge
