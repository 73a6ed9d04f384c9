#include "hip/tile_family.h"

namespace rocmforge::gpu {

Status tile_simple(const TileCall& call) { return tile_of<SimpleQuants>(call); }
Status tile_slots_simple(const TileInputCall& call, const InputNorm* norm) {
  return tile_slots_of<SimpleQuants>(call, norm);
}

}  // namespace rocmforge::gpu
