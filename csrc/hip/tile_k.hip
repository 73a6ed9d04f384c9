#include "hip/tile_family.h"

namespace rocmforge::gpu {

Status tile_k(const TileCall& call) { return tile_of<KQuants>(call); }
Status tile_slots_k(const TileSlotsCall& call) { return tile_slots_of<KQuants>(call); }

}  // namespace rocmforge::gpu
