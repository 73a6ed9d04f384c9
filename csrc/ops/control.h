#pragma once

#include <atomic>

namespace rocmforge {

// Whether quantized products are computed in float (config.exact) instead of with integer dots.
bool exact();

}  // namespace rocmforge
