#include "hip/attention_decode.h"

namespace rocmforge::gpu {

void attention_decode_f16(const AttentionCall& call, const AttentionPlan& plan,
                          const Partials& partials, Stream stream) {
  launch_decode<__half, Float16Cache>(call, plan, partials, stream);
}

}  // namespace rocmforge::gpu
