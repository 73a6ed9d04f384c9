#pragma once

#include "hip/launch.h"

namespace rocmforge::gpu {

// Blocks of GGML type `qtype` as the file has them -> the packed layout (the planes of the type's
// kFields, quants/traits.h), and back. Both hold `blocks` blocks and must not overlap.
Status pack_weight(int qtype, const uint8_t* file, uint8_t* packed, int64_t blocks, Stream stream);
Status unpack_weight(int qtype, const uint8_t* packed, uint8_t* file, int64_t blocks,
                     Stream stream);

}  // namespace rocmforge::gpu
