#pragma once

#include <atomic>

namespace rocmforge {

// Whether quantized products are computed in float (config.exact) instead of with integer dots.
bool exact();

// Whether the calling thread promises that no kernel still to run writes to weights, to positions,
// slots, lengths and block tables, or to a cache but at the positions of the tokens that are
// computed: ops may read all that before the kernels ahead of them are done. GPU only.
bool inputs_at_rest();

}  // namespace rocmforge
