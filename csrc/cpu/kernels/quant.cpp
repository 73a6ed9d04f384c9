// The table of quantized kernels of one instruction set.
#include "cpu/kernels/quant.h"

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/quant_float.h"
#include "cpu/kernels/quant_panel.h"
#include "cpu/kernels/quant_rows.h"
#include "cpu/kernels/quant_tables.h"
#include "cpu/kernels/quant_tile.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {
namespace {

template <int N>
const QuantTypeKernels* search(const QuantTypeKernels (&types)[N], int qtype) {
  for (const QuantTypeKernels& type : types)
    if (type.qtype == qtype) return &type;
  return nullptr;
}

const QuantTypeKernels* find(int qtype) {
  const QuantTypeKernels* found = search(kPlainTypes, qtype);
  if (!found) found = search(kSimpleTypes, qtype);
  if (!found) found = search(kKQuantTypes, qtype);
  if (!found) found = search(kIQuantTypes, qtype);
  if (!found) found = search(kSmallFloatTypes, qtype);
  return found;
}

}  // namespace

const QuantKernels kQuant = {
    find,        kLanes,     kMaxTile,      to_float,      from_float,     quantize_tile,
    panel_bytes, pack_panel, panel_product, float_product, double_product, transposed_product,
};

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
