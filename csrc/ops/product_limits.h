// Which kernel takes a product of so many rows: a table by GPU and type, which Python fills from
// measurements (rocmforge_torch/tuning) and every product reads.
#pragma once

#include <cstdint>

#include "hip/matvec.h"
#include "hip/multirow.h"

namespace rocmforge {

// The most rows of x that each of our own kernels takes; beyond, the vendor's GEMM does. No number
// is less than the one before; a kernel with the same number takes nothing.
struct ProductLimits {
  int64_t matvec, multirow, tile;
};

// Until a table is set.
inline constexpr ProductLimits kDefaultLimits{gpu::kMaxMatvecRows, gpu::kMaxMultirowRows, 128};

// What the kernels can do: a matvec in four passes over the weights; a tile's splits are summed by
// a grid whose second dimension are the rows.
inline constexpr ProductLimits kMostRows{4 * gpu::kMaxMatvecRows, gpu::kMaxMultirowRows, 65535};

// Of a type on a GPU. Any thread may ask while another sets: the three belong together.
ProductLimits product_limits(int device, int qtype);

// Whether they were set: not beyond kMostRows, falling, or for a device or type that has no place.
bool set_product_limits(int device, int qtype, const ProductLimits& limits);

}  // namespace rocmforge
