#include "hip/matvec.h"
#include "hip/matvec_family.h"
#include "hip/quants/table.h"

namespace rocmforge::gpu {
namespace {

template <class Types>
bool has_type(Types types, int qtype) {
  return with_type_of(types, qtype, [](auto) {});
}

constexpr int64_t kMost = INT32_MAX - 1;  // rows, and bytes of a row

Status product(const MatvecCall& call, bool gated, Activation act, const InputNorm* norm) {
  if (call.rows == 0 || call.w.rows == 0) return nullptr;
  if (call.w.cols > kMaxMatvecCols) return "too many columns for a matvec kernel";
  if (call.w.rows > kMost || call.w.row_bytes > kMost) return "too large a matrix for a matvec";
  if (norm && !matvec_norms(call.w, call.rows)) return "no matvec kernel norms so many rows";
  const int qtype = call.w.qtype;
  if (has_type(SimpleQuants{}, qtype)) return matvec_simple(call, gated, act, norm);
  if (has_type(KQuants{}, qtype)) return matvec_k(call, gated, act, norm);
  if (has_type(GridQuants{}, qtype)) return matvec_grid(call, gated, act, norm);
  if (has_type(SmallQuants{}, qtype)) return matvec_small(call, gated, act, norm);
  return "no GPU kernel for this quantization type";
}

}  // namespace

Status matvec(const MatvecCall& call, const InputNorm* norm) {
  return product(call, false, Activation::kSilu, norm);
}

Status matvec_gated(const MatvecCall& call, Activation act, const InputNorm* norm) {
  return product(call, true, act, norm);
}

}  // namespace rocmforge::gpu
