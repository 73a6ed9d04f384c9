// Products of a quantized matrix with 3 to 16 rows of activations, on integer matrix units.
#pragma once

#include "hip/activation.h"
#include "hip/input_norm.h"
#include "hip/matrix.h"

namespace rocmforge::gpu {

constexpr int64_t kMaxMultirowRows = 16;

struct MultirowCall {
  QuantMatrix w;
  const void* x;     // [rows, w.cols], contiguous, 16-byte aligned
  int64_t rows;      // at most kMaxMultirowRows
  void* workspace;   // multirow_workspace_bytes, 16-byte aligned
  const void* bias;  // [w.rows] or null
  DType bias_dtype;
  DType dtype;  // of x and out
  void* out;    // [rows, w.rows], or [rows, w.rows / 2] if gated
  // Whether no kernel that may still run writes to w.
  bool weights_at_rest;
  Stream stream;
};

// For any type.
int64_t multirow_workspace_bytes(int64_t rows, int64_t cols);

// As matvec and matvec_gated (matvec.h) define them, with the same rounding of x.
Status multirow(const MultirowCall& call, const InputNorm* norm = nullptr);
Status multirow_gated(const MultirowCall& call, Activation act, const InputNorm* norm = nullptr);

// The same for the types of one family each (quants/table.h), which are compiled apart; norm may be
// null.
Status multirow_simple(const MultirowCall& call, bool gated, Activation act, const InputNorm* norm);
Status multirow_k(const MultirowCall& call, bool gated, Activation act, const InputNorm* norm);
Status multirow_grid(const MultirowCall& call, bool gated, Activation act, const InputNorm* norm);
Status multirow_small(const MultirowCall& call, bool gated, Activation act, const InputNorm* norm);

}  // namespace rocmforge::gpu
