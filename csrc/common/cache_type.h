// The formats of a key-value cache.
#pragma once

namespace rocmforge {

// The first three are those of DType. e4m3 is torch's float8_e4m3fn, without infinities. In the
// last two a row is a whole number of GGML's blocks.
enum class CacheType : int { kFloat32, kFloat16, kBFloat16, kE4M3, kE5M2, kQ8_0, kQ4_0 };

}  // namespace rocmforge
