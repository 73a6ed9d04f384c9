// How the tile kernel divides a product among blocks: what its launcher and the choice of splits
// (tile_splits.hip) have to agree on.
#pragma once

#include "hip/compat.h"
#include "hip/tile.h"

namespace rocmforge::gpu {

constexpr int kTileWaves = 8;  // of a block

// Of kTileRows rows of x: spans of 16 rows of w to a wave, rows of w to a block, and blocks that a
// compute unit holds at once. On NVIDIA a wave that has a span alone reads x from LDS for longer
// than it multiplies; with two it needs all registers that a block in eight waves can have.
constexpr int kTileWaveSpans = kCopiesAhead ? 2 : 1;
constexpr int kTileBlockRows = 16 * kTileWaves * kTileWaveSpans;
constexpr int kTileUnitBlocks = kCopiesAhead ? 1 : 2;

// Rows of x that are multiplied together, whether or not there are as many, so that a wave has
// several tiles under way.
constexpr int kTileRowsAtOnce = 32;

// Columns of a split, at least: below, filling and emptying a block's stages takes longest.
constexpr int kFewestSplitCols = 512;

}  // namespace rocmforge::gpu
