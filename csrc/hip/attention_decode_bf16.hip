#include "hip/attention_decode.h"

namespace rocmforge::gpu {

void attention_decode_bf16(const AttentionCall& call, const AttentionPlan& plan,
                           const Partials& partials, Stream stream) {
  launch_decode<gpu_bfloat16, BFloat16Cache>(call, plan, partials, stream);
}

}  // namespace rocmforge::gpu
