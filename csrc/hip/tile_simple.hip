#include "hip/tile_kernel.h"

namespace rocmforge::gpu {

Status tile_simple(const TileCall& call) { return tile_of<SimpleQuants>(call); }

}  // namespace rocmforge::gpu
