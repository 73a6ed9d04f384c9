#include "hip/attention_decode.h"

namespace rocmforge::gpu {

void attention_decode_e4m3(const AttentionCall& call, const AttentionPlan& plan,
                           const Partials& partials, Stream stream) {
  launch_decode<__half, E4M3Cache>(call, plan, partials, stream);
}

}  // namespace rocmforge::gpu
