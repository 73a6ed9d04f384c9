#include "hip/tile_family.h"

namespace rocmforge::gpu {

Status tile_small(const TileCall& call) { return tile_of<SmallQuants>(call); }
Status tile_slots_small(const TileInputCall& call, const InputNorm* norm) {
  return tile_slots_of<SmallQuants>(call, norm);
}

}  // namespace rocmforge::gpu
