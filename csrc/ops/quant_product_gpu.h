// The product with quantized weights on a GPU, for the ops that are made of it.
#pragma once

#include "ops/quant_gpu.h"

namespace rocmforge {

// out [..., n] = x [..., k] . weight' + bias [n], of arguments that check_product accepted; out is
// contiguous, not empty, and of x's dtype, or float32 where exact() asks for that arithmetic.
void quant_product(const GpuLaunch& launch, const Tensor& x, const Weight& weight,
                   const QuantTypeInfo& type, const std::optional<Tensor>& bias, Tensor& out);

}  // namespace rocmforge
