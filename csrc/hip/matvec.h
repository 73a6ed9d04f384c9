#pragma once

#include "hip/activations.h"
#include "hip/matrix.h"

namespace rocmforge::gpu {

constexpr int64_t kMaxMatvecRows = 8;

// Rows that the kernels exist for: the next of 1, 2, 4, 8.
constexpr int64_t matvec_rows(int64_t rows) { return rows <= 2 ? rows : rows <= 4 ? 4 : 8; }

// out[m, n] = x[m] . w[n] + bias[n] for m < rows, by integer dot products.
struct MatvecCall {
  QuantMatrix w;
  QuantActivations x;  // matvec_rows(rows) rows
  int64_t rows;
  const void* bias;  // [w.rows] or null
  DType bias_dtype;
  DType dtype;  // of out
  void* out;    // [rows, w.rows]
  Stream stream;
};

Status matvec(const MatvecCall& call);

// The same for the types of one family each (quants/table.h), which are compiled apart.
Status matvec_simple(const MatvecCall& call);
Status matvec_k(const MatvecCall& call);
Status matvec_grid(const MatvecCall& call);
Status matvec_small(const MatvecCall& call);

}  // namespace rocmforge::gpu
