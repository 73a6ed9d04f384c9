// What a launcher takes and gives, without any GPU or torch header: the registrations in csrc/ops
// are compiled by the host compiler alone.
#pragma once

#include <cstdint>

namespace rocmforge::gpu {

enum class DType : int { kFloat32, kFloat16, kBFloat16 };

// A hipStream_t or cudaStream_t.
using Stream = void*;

// Null when the launch was accepted, else the runtime's message.
using Status = const char*;

}  // namespace rocmforge::gpu
