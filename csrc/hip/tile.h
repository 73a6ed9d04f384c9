// Products of a quantized matrix with several rows of activations, on matrix units.
#pragma once

#include "hip/activation.h"
#include "hip/input_norm.h"
#include "hip/matrix.h"

namespace rocmforge::gpu {

// Rows of x for which the weights are read once.
constexpr int64_t kTileRows = 64;

// Rows of x as the kernels read them: float16, each row under a power of two so that none
// overflows, [chunk][cols / 8][rows of a chunk][8] so that what a wave loads at once is contiguous.
struct TileInput {
  uint16_t* values;
  float* factors;  // [rows], what products of the values have to be multiplied by
  int chunk_rows;  // kTileRows, or fewer where there is only one chunk
  bool by_slots;   // columns stand as SlotOrder in tile_input.h says, and not [cols / 8]
};

// Bytes of memory for TileInput, which place_tile_input divides.
int64_t tile_input_bytes(int64_t rows, int64_t cols);
TileInput place_tile_input(void* memory, int64_t rows, int64_t cols);

// Rows of x for weights of a type.
struct TileInputCall {
  int qtype;  // of the weights
  DType dtype;
  const void* x;   // [rows, cols], every row 16-byte aligned
  int64_t stride;  // elements from one row to the next
  int64_t rows, cols;
  TileInput out;
  bool weights_at_rest;  // whether no kernel that may still run writes to the weights
  Stream stream;
};

// A row with an infinity or a NaN keeps it. x is normed before if there is a norm.
Status tile_input(const TileInputCall& call, const InputNorm* norm = nullptr);

// Columns are divided among blocks where rows alone would leave compute units idle.
struct TileSplits {
  int count;
  float* sums;  // [count][rows][w.rows], products of each split; null if there is one
};

// How many splits a product of the current device is best made of.
int tile_splits(int64_t rows, int64_t w_rows, int64_t cols);

// out[m, n] = x[m] . w[n] + bias[n] for m < rows, with weights rounded to float16, summed in
// float32. If gated, out[m, n] = act(of row n) * (of row n + w.rows / 2) instead, of half the rows.
struct TileCall {
  QuantMatrix w;
  TileInput x;
  TileSplits splits;
  int64_t rows;
  const void* bias;  // [w.rows] or null
  DType bias_dtype;
  DType dtype;  // of out
  void* out;    // [rows, w.rows], or [rows, w.rows / 2] if gated
  bool gated;
  Activation act;
  Stream stream;
};

Status tile(const TileCall& call);

// The same for the types of one family each (quants/table.h), which are compiled apart; several
// splits are left in splits.sums, from which sum_tile_splits makes the result.
Status tile_simple(const TileCall& call);
Status tile_k(const TileCall& call);
Status tile_grid(const TileCall& call);
Status tile_small(const TileCall& call);
Status tile_slots_simple(const TileInputCall& call, const InputNorm* norm);
Status tile_slots_k(const TileInputCall& call, const InputNorm* norm);
Status tile_slots_grid(const TileInputCall& call, const InputNorm* norm);
Status tile_slots_small(const TileInputCall& call, const InputNorm* norm);
Status sum_tile_splits(const TileCall& call);

}  // namespace rocmforge::gpu
