// The product with quantized weights on a GPU, for the ops that are made of it.
#pragma once

#include <optional>
#include <string>

#include "hip/matvec.h"
#include "ops/quant_gpu.h"

namespace rocmforge {

// How a product is computed: by integer dot products with x rounded to 8 bits (kMatvec, kMultirow),
// on matrix units with weights decoded in registers, or by the vendor's GEMM on expanded weights.
enum class ProductKernel { kMatvec, kMultirow, kTile, kExpanded };

// The kernel that a GPU takes for so many rows of x and columns of the weight, by its table
// (product_limits.h).
ProductKernel product_kernel(int device, const QuantTypeInfo& type, int64_t rows, int64_t k);

// Whether a kernel can take gates and norms along: all but kExpanded.
bool fuses(ProductKernel kernel);

// The product by such a kernel, gated if there is an `act`; bias is contiguous or null. With a
// norm, that of x after it: kMatvec needs gpu::matvec_norms(). The caller chose the kernel, once:
// the table may be set in between.
void fused_product(const GpuLaunch& launch, ProductKernel kernel, const Tensor& x,
                   const Weight& weight, std::optional<gpu::Activation> act, const Tensor* bias,
                   Tensor& out, const gpu::InputNorm* norm = nullptr);

// silu or gelu.
gpu::Activation gate_of(const std::string& act);

// out [..., n] = x [..., k] . weight' + bias [n], of arguments that check_product accepted; out is
// contiguous, not empty, and of x's dtype, or float32 where exact() asks for that arithmetic.
void quant_product(const GpuLaunch& launch, const Tensor& x, const Weight& weight,
                   const QuantTypeInfo& type, const std::optional<Tensor>& bias, Tensor& out);

// out [..., n / 2] = act(gate's half of the product) * up's half.
void gated_product(const GpuLaunch& launch, const Tensor& x, const Weight& weight,
                   const QuantTypeInfo& type, const std::string& act,
                   const std::optional<Tensor>& bias, Tensor& out);

}  // namespace rocmforge
