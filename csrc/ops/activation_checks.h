#pragma once

#include "ops/checks.h"

namespace rocmforge {

inline void check_gated(const char* op, const Tensor& gate, const Tensor& up) {
  check_float(op, "gate", gate);
  check_dim(op, "gate", gate, 1);
  check_same_shape(op, "up", up, gate);
  check_same_dtype(op, "up", up, gate);
  check_device(op, "up", up, gate, "gate");
}

}  // namespace rocmforge
