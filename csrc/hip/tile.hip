#include "hip/quants/table.h"
#include "hip/tile.h"

namespace rocmforge::gpu {
namespace {

template <class Types>
bool has_type(Types types, int qtype) {
  return with_type_of(types, qtype, [](auto) {});
}

constexpr Status kNoKernel = "no GPU kernel for this quantization type";

Status products(const TileCall& call) {
  const int qtype = call.w.qtype;
  if (has_type(SimpleQuants{}, qtype)) return tile_simple(call);
  if (has_type(KQuants{}, qtype)) return tile_k(call);
  if (has_type(GridQuants{}, qtype)) return tile_grid(call);
  if (has_type(SmallQuants{}, qtype)) return tile_small(call);
  return kNoKernel;
}

Status input_by_slots(const TileSlotsCall& call) {
  if (has_type(SimpleQuants{}, call.qtype)) return tile_slots_simple(call);
  if (has_type(KQuants{}, call.qtype)) return tile_slots_k(call);
  if (has_type(GridQuants{}, call.qtype)) return tile_slots_grid(call);
  if (has_type(SmallQuants{}, call.qtype)) return tile_slots_small(call);
  return kNoKernel;
}

}  // namespace

Status tile_input(int qtype, DType dtype, const void* x, int64_t stride, int64_t rows, int64_t cols,
                  const TileInput& out, Stream stream) {
  if (rows == 0 || cols == 0) return nullptr;
  if (!out.by_slots) return natural_tile_input(dtype, x, stride, rows, cols, out, stream);
  const int64_t size = dtype == DType::kFloat32 ? 4 : 2;
  return input_by_slots({qtype, dtype, x, stride * size, rows, cols, out, stream});
}

Status tile(const TileCall& call) {
  if (call.rows == 0 || call.w.rows == 0) return nullptr;
  const Status status = products(call);
  return status || call.splits.count == 1 ? status : sum_tile_splits(call);
}

}  // namespace rocmforge::gpu
