#pragma once

#include "hip/launch.h"
#include "hip/rows.h"

namespace rocmforge::gpu {

// Where tokens stand and how far each pair turns: token t at positions[t % num_positions], int64 or
// int32 (long_positions); inv_freq [pairs] float32.
struct Rotation {
  bool long_positions;
  const void* positions;
  int64_t num_positions;
  const float* inv_freq;
  int64_t pairs;
  bool interleaved;
  float scale;
};

// Rotates the first 2 * pairs dimensions of every head; see the op `rope`.
// x: `tokens` rows placed by x_tokens, each of `heads` heads `head_stride` elements apart with
// head_dim neighbours; out is contiguous. The other arguments are those of a Rotation.
Status rope(DType dtype, const void* x, const RowLayout* x_tokens, int64_t head_stride,
            bool long_positions, const void* positions, int64_t num_positions,
            const float* inv_freq, int64_t pairs, bool interleaved, float scale, void* out,
            int64_t tokens, int64_t heads, int64_t head_dim, Stream stream);

}  // namespace rocmforge::gpu
