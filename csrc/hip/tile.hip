#include "hip/quants/table.h"
#include "hip/tile.h"

namespace rocmforge::gpu {
namespace {

template <class Types>
bool has_type(Types types, int qtype) {
  return with_type_of(types, qtype, [](auto) {});
}

Status products(const TileCall& call) {
  const int qtype = call.w.qtype;
  if (has_type(SimpleQuants{}, qtype)) return tile_simple(call);
  if (has_type(KQuants{}, qtype)) return tile_k(call);
  if (has_type(GridQuants{}, qtype)) return tile_grid(call);
  if (has_type(SmallQuants{}, qtype)) return tile_small(call);
  return "no GPU kernel for this quantization type";
}

}  // namespace

Status tile(const TileCall& call) {
  if (call.rows == 0 || call.w.rows == 0) return nullptr;
  const Status status = products(call);
  return status || call.splits.count == 1 ? status : sum_tile_splits(call);
}

}  // namespace rocmforge::gpu
