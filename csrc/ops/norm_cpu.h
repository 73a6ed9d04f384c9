// Norms on the CPU, for the ops that are made of them.
#pragma once

#include "ops/checks.h"

namespace rocmforge {

// out = rms_norm(x, weight), or with a residual and `sum` as add_rms_norm has it. Arguments that
// the op's checks accepted; results are contiguous.
void norm_rows(const Tensor& x, const Tensor* residual, const std::optional<Tensor>& weight,
               double eps, const std::optional<Tensor>& x_weight, Tensor& out, Tensor* sum);

}  // namespace rocmforge
