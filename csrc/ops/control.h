#pragma once

#include <atomic>

namespace rocmforge {

// Whether quantized products are computed in float (config.exact) instead of with integer dots.
bool exact();

// Whether the calling thread promises that no kernel still to run writes to quantized weights: a
// product may read them before the kernels ahead of it are done. GPU only.
bool weights_at_rest();

}  // namespace rocmforge
