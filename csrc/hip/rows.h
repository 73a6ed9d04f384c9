// Where the rows of a tensor stand, as launchers take it.
#pragma once

#include <cstdint>

namespace rocmforge::gpu {

// Row i starts at (i / inner) * outer_stride + (i % inner) * inner_stride, in elements; its own
// elements are neighbours.
struct RowLayout {
  int64_t inner, outer_stride, inner_stride;
};

}  // namespace rocmforge::gpu
