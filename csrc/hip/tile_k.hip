#include "hip/tile_kernel.h"

namespace rocmforge::gpu {

Status tile_k(const TileCall& call) { return tile_of<KQuants>(call); }

}  // namespace rocmforge::gpu
