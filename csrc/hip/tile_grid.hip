#include "hip/tile_family.h"

namespace rocmforge::gpu {

Status tile_grid(const TileCall& call) { return tile_of<GridQuants>(call); }
Status tile_slots_grid(const TileInputCall& call, const InputNorm* norm) {
  return tile_slots_of<GridQuants>(call, norm);
}

}  // namespace rocmforge::gpu
