#include "hip/tile_family.h"

namespace rocmforge::gpu {

Status tile_k(const TileCall& call) { return tile_of<KQuants>(call); }
Status tile_slots_k(const TileInputCall& call, const InputNorm* norm) {
  return tile_slots_of<KQuants>(call, norm);
}

}  // namespace rocmforge::gpu
