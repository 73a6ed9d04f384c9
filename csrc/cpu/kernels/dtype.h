#pragma once

namespace rocmforge::cpu {

enum class DType : int { kFloat32, kFloat16, kBFloat16 };

}  // namespace rocmforge::cpu
