#include "hip/attention_tile.h"

namespace rocmforge::gpu {

void attention_tile_f16(const AttentionCall& call, const AttentionPlan& plan,
                        const Partials& partials, Stream stream) {
  launch_tile<__half>(call, plan, partials, stream);
}

}  // namespace rocmforge::gpu
