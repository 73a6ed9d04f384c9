// Products of many activation rows: weights in panels, one weight row per lane.
#pragma once

#include "cpu/kernels/quant.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

int64_t panel_bytes(const QuantTypeKernels& type, int64_t chunks);
void pack_panel(const QuantTypeKernels& type, const uint8_t* weights, int64_t stride,
                int64_t num_rows, int64_t chunks, void* panel);
void panel_product(const QuantTypeKernels& type, const void* panel, int64_t num_rows,
                   const QuantizedRows& x, float* out, int64_t out_stride);

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
