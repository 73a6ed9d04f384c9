#include "hip/multirow.h"
#include "hip/multirow_input.h"

namespace rocmforge::gpu {
namespace {

template <class Types>
bool has_type(Types types, int qtype) {
  return with_type_of(types, qtype, [](auto) {});
}

constexpr int64_t kMost = INT32_MAX - 16;  // rows, and bytes of a row

Status product(const MultirowCall& call, bool gated, Activation act, const InputNorm* norm) {
  if (call.rows == 0 || call.w.rows == 0) return nullptr;
  if (call.rows > kMaxMultirowRows) return "too many rows of x for a multirow kernel";
  if (call.w.rows > kMost || call.w.row_bytes > kMost) return "too large a matrix for this kernel";
  const int qtype = call.w.qtype;
  if (has_type(SimpleQuants{}, qtype)) return multirow_simple(call, gated, act, norm);
  if (has_type(KQuants{}, qtype)) return multirow_k(call, gated, act, norm);
  if (has_type(GridQuants{}, qtype)) return multirow_grid(call, gated, act, norm);
  if (has_type(SmallQuants{}, qtype)) return multirow_small(call, gated, act, norm);
  return "no GPU kernel for this quantization type";
}

}  // namespace

int64_t multirow_workspace_bytes(int64_t rows, int64_t cols) {
  // No type has more beside its codes than 12 bytes for 16 of them; stages are up to 512 columns. A
  // norm leaves a sum of squares for some columns of each row.
  const int64_t stages = (cols + 511) / 512;
  return (rows <= 8 ? 8 : 16) * stages * (512 * 7 / 4 + static_cast<int64_t>(sizeof(float)));
}

Status multirow(const MultirowCall& call, const InputNorm* norm) {
  return product(call, false, Activation::kSilu, norm);
}

Status multirow_gated(const MultirowCall& call, Activation act, const InputNorm* norm) {
  return product(call, true, act, norm);
}

}  // namespace rocmforge::gpu
