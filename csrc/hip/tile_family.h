// Tile kernels of every type of a family.
#pragma once

#include "hip/tile_kernel.h"
#include "hip/tile_warpgroup.h"

namespace rocmforge::gpu {

template <class T>
void launch_tile_of(const TileCall& call) {
#if defined(ROCMFORGE_WARPGROUPS)
  if (call.x.by_slots) {
    return call.x.chunk_rows == 32 ? launch_warpgroup_tile<T, 32>(call)
                                   : launch_warpgroup_tile<T, kTileRows>(call);
  }
#endif
  if constexpr (kFewestTileCols < 16) {
    if (call.x.chunk_rows == kFewestTileCols) return launch_tile<T, kFewestTileCols>(call);
  }
  return call.x.chunk_rows == 16 ? launch_tile<T, 16>(call) : launch_tile<T, kTileRows>(call);
}

template <class Types>
Status tile_of(const TileCall& call) {
  with_type_of(Types{}, call.w.qtype, [&](auto type) { launch_tile_of<decltype(type)>(call); });
  return launch_status();
}

template <class Types>
Status tile_slots_of([[maybe_unused]] const TileInputCall& call,
                     [[maybe_unused]] const InputNorm* norm) {
#if defined(ROCMFORGE_WARPGROUPS)
  const int64_t chunk = call.out.chunk_rows, written = (call.rows + chunk - 1) / chunk * chunk;
  with_type_of(Types{}, call.qtype, [&](auto type) {
    launch_tile_input<SlotOrder<decltype(type)>>(call, norm, written);
  });
#endif
  return launch_status();
}

}  // namespace rocmforge::gpu
