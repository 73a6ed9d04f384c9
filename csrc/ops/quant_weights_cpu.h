// The weights of a product, in either layout, as the CPU kernels read them: rows of whole blocks.
#pragma once

#include <cstring>

#include "common/packed_layout.h"
#include "cpu/kernels/quant.h"
#include "ops/quant_memory_cpu.h"

namespace rocmforge {

// A matrix of blocks: `rows` weight rows of `row_blocks` blocks, `stride` bytes apart.
struct BlockMatrix {
  const cpu::QuantTypeKernels* type;
  const uint8_t* data;
  int64_t rows;
  int64_t stride;
  int64_t row_blocks;
  const PackedLayout* packed = nullptr;  // in layout 1, where the type has planes

  int64_t width() const { return row_blocks * type->block_size; }
  int64_t row_bytes() const { return row_blocks * type->block_bytes; }
};

// Reads up to `max_rows` rows of a matrix at a time: where they stand, or, from the packed layout,
// put together in memory of its own. One for each thread.
class WeightRows {
 public:
  WeightRows(const BlockMatrix& matrix, int64_t max_rows)
      : matrix_(matrix), unpacked_(matrix.packed ? max_rows * matrix.row_bytes() : 0) {}

  // Rows [first, first + count) as the file has them, stride() apart.
  const uint8_t* at(int64_t first, int64_t count) const {
    if (!matrix_.packed) return matrix_.data + first * matrix_.stride;
    const int64_t block_bytes = matrix_.type->block_bytes;
    const int64_t begin = first * matrix_.row_blocks, blocks = count * matrix_.row_blocks;
    const uint8_t* plane = matrix_.data;
    for (const PackedField& field : matrix_.packed->fields) {
      const uint8_t* from = plane + begin * field.size;
      uint8_t* to = unpacked_.get() + field.offset;
      for (int64_t b = 0; b < blocks; ++b) {
        std::memcpy(to + b * block_bytes, from + b * field.size, field.size);
      }
      plane += matrix_.rows * matrix_.row_blocks * field.size;
    }
    return unpacked_.get();
  }

  int64_t stride() const { return matrix_.packed ? matrix_.row_bytes() : matrix_.stride; }

 private:
  const BlockMatrix& matrix_;
  Buffer<uint8_t> unpacked_;
};

}  // namespace rocmforge
