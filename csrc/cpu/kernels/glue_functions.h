// The functions behind the table `kGlue`, for one instruction set. See glue.h.
#pragma once

#include "cpu/kernels/glue.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

void rms_norm(DType dtype, const Rows& x, const Rows* residual, DType weight_dtype,
              const void* weight, const void* x_weight, float eps, void* out, void* sum,
              int64_t width, int64_t begin, int64_t end);
void rope(const RopeArgs& args, int64_t begin, int64_t end, float* scratch);
void gated(DType dtype, Activation activation, const Rows& gate, const Rows& up, void* out,
           int64_t width, int64_t begin, int64_t end);
void accumulate(DType dtype, const void* src, void* dst, int64_t count);
void convert(DType from, const void* src, CacheType to, void* dst, int64_t count);
int64_t attention_scratch(const AttentionArgs& args, int64_t rows);
void attention(const AttentionArgs& args, const AttentionTile& tile, float* scratch,
               float* partial);
void attention_join(const AttentionArgs& args, const AttentionTile& tile, float* partial,
                    int64_t splits, int64_t stride);
float maximum(const float* values, int64_t count);
void softmax_weights(const float* values, float maximum, double* weights, int64_t count);
int64_t gumbel_argmax(const float* values, const int64_t* ids, int64_t count, double temperature,
                      uint64_t seed, uint64_t step);

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
