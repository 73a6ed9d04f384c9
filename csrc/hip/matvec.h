// Products of a quantized matrix with one or two rows of activations.
#pragma once

#include "hip/activation.h"
#include "hip/input_norm.h"
#include "hip/matrix.h"

namespace rocmforge::gpu {

// Rows of x that one pass over the weights can serve. More take more passes.
constexpr int64_t kMaxMatvecRows = 2;
// A row of x has to fit the LDS of a block, rounded to 8 bits: 1.5 bytes for every activation.
constexpr int64_t kMaxMatvecCols = 32768;

struct MatvecCall {
  QuantMatrix w;  // at most kMaxMatvecCols columns
  const void* x;  // [rows, w.cols], contiguous, 16-byte aligned
  int64_t rows;
  const void* bias;  // [w.rows] or null
  DType bias_dtype;
  DType dtype;  // of x and out
  void* out;    // [rows, w.rows], or [rows, w.rows / 2] if gated
  // Whether no kernel that may still run writes to w.
  bool weights_at_rest;
  Stream stream;
};

// Whether the kernel can norm x on the way: one row, for packed weights.
inline bool matvec_norms(const QuantMatrix& w, int64_t rows) { return rows == 1 && w.layout == 1; }

// out[m, n] = x[m] . w[n] + bias[n], by integer dot products with x rounded to 8 bits: code =
// round(x * (127 / max |x|)), scale = max |x| / 127 over 32 neighbours. A block with an infinity or
// a NaN gets a scale that is not finite. x is normed before if there is a norm.
Status matvec(const MatvecCall& call, const InputNorm* norm = nullptr);

// out[m, n] = act(x[m] . w[n]) * (x[m] . w[n + w.rows / 2]) for the first half of the rows: the
// gate's rows come first, then those of the projection that it gates. With bias[n] added to what it
// belongs to before.
Status matvec_gated(const MatvecCall& call, Activation act, const InputNorm* norm = nullptr);

}  // namespace rocmforge::gpu
