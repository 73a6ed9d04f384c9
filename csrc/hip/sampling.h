#pragma once

#include "hip/launch.h"

namespace rocmforge::gpu {

// One of each per row, contiguous.
struct SampleParams {
  const float* temperature;
  const int64_t* top_k;
  const float* top_p;
  const float* min_p;
  const int64_t* seed;
  const int64_t* step;
};

// Bytes of the workspace that `sample` needs, 16-byte aligned: 8 per logit and some more.
int64_t sample_workspace_bytes(int64_t batch, int64_t vocab);

// ids[b] = the chosen token of logits[b]; see the op `sample`. logits [batch, vocab], rows
// `stride` elements apart; vocab < 2^32.
Status sample(DType dtype, const void* logits, int64_t stride, const SampleParams* params,
              void* workspace, int64_t* ids, int64_t batch, int64_t vocab, Stream stream);

}  // namespace rocmforge::gpu
