#include "hip/attention_decode.h"

namespace rocmforge::gpu {

void attention_decode_q4_0(const AttentionCall& call, const AttentionPlan& plan,
                           const Partials& partials, Stream stream) {
  launch_decode<__half, Q4_0Cache>(call, plan, partials, stream);
}

}  // namespace rocmforge::gpu
