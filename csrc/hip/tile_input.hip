#include "hip/dispatch.h"
#include "hip/tile_input.h"
#include "hip/tile_plan.h"

namespace rocmforge::gpu {
namespace {

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

int64_t chunk_rows_for(int64_t rows, bool by_slots) {
  if (by_slots) return rows <= 32 ? 32 : kTileRows;
  return rows <= kFewestTileCols ? kFewestTileCols : rows <= 16 ? 16 : kTileRows;
}

bool goes_by_slots(int64_t rows) { return rows > 16 && device_has_warpgroups(); }

// Columns with those past a row: a turn of all slots is up to 512.
int64_t room_for(int64_t cols, bool by_slots) { return by_slots ? round_up(cols, 512) : cols; }

// For cards that have code for it (warpgroup_mma.h).
Status input_by_slots([[maybe_unused]] const TileInputCall& call,
                      [[maybe_unused]] const InputNorm* norm) {
#if defined(ROCMFORGE_WARPGROUPS)
  const auto is_one_of = [&](auto types) { return with_type_of(types, call.qtype, [](auto) {}); };
  if (is_one_of(SimpleQuants{})) return tile_slots_simple(call, norm);
  if (is_one_of(KQuants{})) return tile_slots_k(call, norm);
  if (is_one_of(GridQuants{})) return tile_slots_grid(call, norm);
  if (is_one_of(SmallQuants{})) return tile_slots_small(call, norm);
#endif
  return "no GPU kernel for this quantization type";
}

}  // namespace

int64_t tile_input_bytes(int64_t rows, int64_t cols) {
  const bool by_slots = goes_by_slots(rows);
  const int64_t written = round_up(rows, chunk_rows_for(rows, by_slots));
  return round_up(written * (room_for(cols, by_slots) * 2 + 4), 16);
}

TileInput place_tile_input(void* workspace, int64_t rows, int64_t cols) {
  const bool by_slots = goes_by_slots(rows);
  const int64_t chunk_rows = chunk_rows_for(rows, by_slots);
  auto* values = static_cast<uint16_t*>(workspace);
  auto* factors =
      reinterpret_cast<float*>(values + round_up(rows, chunk_rows) * room_for(cols, by_slots));
  return {values, factors, static_cast<int>(chunk_rows), by_slots};
}

Status tile_input(const TileInputCall& call, const InputNorm* norm) {
  if (call.rows == 0 || call.cols == 0) return nullptr;
  const TileInput& out = call.out;
  if (out.by_slots) return input_by_slots(call, norm);
  // Rows past the last fill what is multiplied at once: their products are not used, but computed.
  const int64_t at_once = out.chunk_rows < kTileRowsAtOnce ? out.chunk_rows : kTileRowsAtOnce;
  launch_tile_input<PlainOrder>(call, norm, round_up(call.rows, at_once));
  return launch_status();
}

}  // namespace rocmforge::gpu
