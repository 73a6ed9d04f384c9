#include "hip/tile_kernel.h"

namespace rocmforge::gpu {

Status tile_small(const TileCall& call) { return tile_of<SmallQuants>(call); }

}  // namespace rocmforge::gpu
