#pragma once

#include "ops/checks.h"

namespace rocmforge {

// What rotates the argument `name`.
inline void check_rope(const char* op, const char* name, const Tensor& x, const Tensor& positions,
                       const Tensor& inv_freq) {
  check_float(op, name, x);
  check_dim(op, name, x, 3);
  check_int(op, "positions", positions);
  check_device(op, "positions", positions, x, name);
  const int64_t dims = x.dim();
  bool fits = positions.dim() == 1 && positions.size(0) == x.size(dims - 3);
  if (positions.dim() > 1) {
    fits = positions.dim() == dims - 2;
    for (int64_t i = 0; fits && i < dims - 2; ++i) fits = positions.size(i) == x.size(i);
  }
  if (!fits) {
    fail(op, "positions must have shape [T] or all but the last two dimensions of ", name, " ",
         shape_text(x), ", got ", shape_text(positions));
  }
  check_dtype(op, "inv_freq", inv_freq, ScalarType::Float);
  check_device(op, "inv_freq", inv_freq, x, name);
  if (inv_freq.dim() != 1 || 2 * inv_freq.size(0) > x.size(dims - 1)) {
    fail(op, "inv_freq must have shape [R/2] with R <= ", x.size(dims - 1), ", got ",
         shape_text(inv_freq));
  }
}

}  // namespace rocmforge
