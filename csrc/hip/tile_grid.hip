#include "hip/tile_kernel.h"

namespace rocmforge::gpu {

Status tile_grid(const TileCall& call) { return tile_of<GridQuants>(call); }

}  // namespace rocmforge::gpu
