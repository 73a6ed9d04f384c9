#include "hip/attention_tile.h"

namespace rocmforge::gpu {

void attention_tile_bf16(const AttentionCall& call, const AttentionPlan& plan,
                         const Partials& partials, Stream stream) {
  launch_tile<gpu_bfloat16>(call, plan, partials, stream);
}

}  // namespace rocmforge::gpu
