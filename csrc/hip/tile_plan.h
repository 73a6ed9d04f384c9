// How the tile kernel divides a product among blocks: what its launcher and the choice of splits
// (tile_splits.hip) have to agree on.
#pragma once

#include "hip/tile.h"

namespace rocmforge::gpu {

constexpr int kTileWaves = 8;  // of a block

// Of kTileRows rows of x: rows of w of a block, and blocks that a compute unit holds at once.
constexpr int kTileBlockRows = 16 * kTileWaves;
constexpr int kTileUnitBlocks = 2;

// Columns of a split, at least: below, filling and emptying a block's stages takes longest.
constexpr int kFewestSplitCols = 512;

}  // namespace rocmforge::gpu
