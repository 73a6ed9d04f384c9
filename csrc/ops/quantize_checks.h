// Checks of `quantize`, for CPU and GPU registrations alike.
#pragma once

#include <vector>

#include "ops/quant_checks.h"
#include "ops/result.h"

namespace rocmforge {

// The types that `quantize` writes, in the order of their numbers.
inline constexpr int64_t kQuantizable[] = {0,  1,  2,  3,  6,  7,  8,  9,  10, 11, 12,
                                           13, 14, 15, 20, 23, 30, 34, 35, 39, 40, 41};

// Returns the type's block.
inline const QuantTypeInfo& check_quantize(const Tensor& x, int64_t qtype) {
  constexpr const char* op = "quantize";
  const QuantTypeInfo& type = known_type(op, qtype);
  bool found = false;
  for (const int64_t id : kQuantizable) found = found || id == qtype;
  if (!found) {
    std::string names;
    for (const int64_t id : kQuantizable) {
      names += (names.empty() ? "" : ", ") + std::string(known_type(op, id).name);
    }
    fail(op, type.name, " has no quantizer; types with one: ", names);
  }
  check_float(op, "x", x);
  check_dim(op, "x", x, 1);
  const int64_t k = x.size(x.dim() - 1);
  check(k % type.block_size == 0, op, "the last dimension of x must be a multiple of ", type.name,
        "'s block size ", type.block_size, ", got ", k);
  return type;
}

// The shape of x's blocks.
inline std::vector<int64_t> blocks_shape(const Tensor& x, const QuantTypeInfo& type) {
  return shape_with_last(x, x.size(x.dim() - 1) / type.block_size * type.block_bytes);
}

}  // namespace rocmforge
