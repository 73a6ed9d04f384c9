// What the ops on quantized weights check, whatever the device: the sentences of ops/checks.py.
#pragma once

#include "ops/checks.h"

namespace rocmforge {

// A GGML type of floating point values: the rows of quant_types.py that have kernels.
struct QuantTypeInfo {
  int id;
  const char* name;
  int block_size;
  int block_bytes;

  bool is_quantized() const { return block_size > 1; }
  int64_t width(int64_t row_bytes) const { return row_bytes / block_bytes * block_size; }
};

inline constexpr QuantTypeInfo kQuantTypes[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},
    {3, "Q4_1", 32, 20},      {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},
    {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},      {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},  {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},  {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136}, {29, "IQ1_M", 256, 56},   {30, "BF16", 1, 2},
    {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},    {41, "Q1_0", 128, 18},
};

inline const QuantTypeInfo& known_type(const char* op, int64_t qtype) {
  for (const QuantTypeInfo& type : kQuantTypes) {
    if (type.id == qtype) return type;
  }
  fail(op, "qtype ", qtype, " is not a GGML type of floating point values");
}

// `name` is what the op calls its argument of blocks.
inline const QuantTypeInfo& check_qweight(const char* op, const Tensor& qweight, int64_t qtype,
                                          const char* name = "qweight") {
  const QuantTypeInfo& type = known_type(op, qtype);
  check_dtype(op, name, qweight, ScalarType::Byte);
  check_dim(op, name, qweight, 1);
  const int64_t bytes = qweight.size(qweight.dim() - 1);
  const int64_t stride = qweight.stride(qweight.dim() - 1);
  check(bytes % type.block_bytes == 0, op, name, " rows must be a multiple of ", type.block_bytes,
        " bytes (one ", type.name, " block of ", type.block_size, " elements), got ", bytes);
  check(bytes <= type.block_bytes || stride == 1, op, name,
        " rows must be contiguous: stride 1 in the last dimension, got ", stride);
  return type;
}

inline const QuantTypeInfo& check_matrix(const char* op, const Tensor& qweight, int64_t qtype,
                                         const char* name = "qweight") {
  known_type(op, qtype);
  check_dtype(op, name, qweight, ScalarType::Byte);
  if (qweight.dim() != 2) {
    fail(op, name, " must have 2 dimensions [rows, row_bytes], got ", shape_text(qweight));
  }
  return check_qweight(op, qweight, qtype, name);
}

inline void check_output_dtype(const char* op, ScalarType dtype) {
  check(is_float(dtype), op, "dtype must be float32 or float16 or bfloat16, got ",
        dtype_name(dtype));
}

inline void check_bias(const char* op, const Tensor& bias, int64_t n, const Tensor& x) {
  check_shape(op, "bias", bias, {n});
  check_device(op, "bias", bias, x, "x");
  check(bias.scalar_type() == x.scalar_type() || bias.scalar_type() == ScalarType::Float, op,
        "bias must be ", dtype_name(x.scalar_type()), " as x is, or float32, got ",
        dtype_name(bias.scalar_type()));
}

// The arguments of x [..., k] . qweight' [k, n] + bias [n].
inline const QuantTypeInfo& check_product(const char* op, const Tensor& x, const Tensor& qweight,
                                          int64_t qtype, const std::optional<Tensor>& bias,
                                          int64_t layout, const char* name = "qweight") {
  const QuantTypeInfo& type = check_matrix(op, qweight, qtype, name);
  check_float(op, "x", x);
  check_dim(op, "x", x, 1);
  check_device(op, name, qweight, x, "x");
  const int64_t features = x.size(x.dim() - 1), k = type.width(qweight.size(1));
  check(features == k, op, "x has ", features, " features but a row of ", name, " holds ", k,
        " elements");
  check(layout == 0 || layout == 1, op,
        "layout must be 0 (blocks as the file has them) or 1 (packed), got ", layout);
  check(layout == 0 || qweight.is_contiguous(), op, name,
        " must be contiguous in layout 1, as pack_weight returns it");
  if (bias) check_bias(op, *bias, qweight.size(0), x);
  return type;
}

// The arguments of g [..., n] . qweight [n, k].
inline const QuantTypeInfo& check_transposed_product(const char* op, const Tensor& g,
                                                     const Tensor& qweight, int64_t qtype) {
  const QuantTypeInfo& type = check_matrix(op, qweight, qtype);
  check_float(op, "g", g);
  check_dim(op, "g", g, 1);
  check_device(op, "qweight", qweight, g, "g");
  const int64_t features = g.size(g.dim() - 1);
  check(features == qweight.size(0), op, "g has ", features, " features but qweight has ",
        qweight.size(0), " rows");
  return type;
}

// All but the values of the ids.
inline const QuantTypeInfo& check_embedding(const char* op, const Tensor& ids,
                                            const Tensor& qweight, int64_t qtype,
                                            ScalarType dtype) {
  const QuantTypeInfo& type = check_matrix(op, qweight, qtype);
  check_int(op, "ids", ids);
  check_device(op, "ids", ids, qweight, "qweight");
  check_output_dtype(op, dtype);
  return type;
}

}  // namespace rocmforge
