// In-place updates at places that are read on the device. A place outside is left alone.
#pragma once

#include "common/cache_type.h"
#include "hip/launch.h"
#include "hip/rows.h"

namespace rocmforge::gpu {

constexpr int kMaxDims = 8;

// The elements that two tensors share: sizes, and strides of each in elements, outer to inner.
struct SharedLayout {
  int64_t dims;
  int64_t sizes[kMaxDims], dst_strides[kMaxDims], src_strides[kMaxDims];
};

// dst[start + i, ...] += src[i, ...], start = *offset; nothing where 0 <= start <= last_start does
// not hold. `layout` describes src and the same number of rows of dst; `row_stride` is dst's first.
Status accumulate(DType dtype, void* dst, const void* src, const int64_t* offset,
                  int64_t last_start, int64_t row_stride, const SharedLayout* layout,
                  Stream stream);

// Places of a cache, `strides` elements apart by sequence or block, position, head and dimension
// (bytes where it holds blocks), and tokens of `heads` heads head_stride elements apart.
struct CacheLayout {
  int64_t head_dim;  // values
  int64_t strides[4];
  RowLayout tokens;
  int64_t head_stride;
};

// One cache and what is written into it.
struct CacheTarget {
  CacheType type;
  void* cache;
  const void* fresh;
  CacheLayout layout;
};

// Token t goes to position slots[t] % block_size of block slots[t] / block_size, keys and values
// alike; slots outside [0, places) are passed over. `dtype` is the tokens'. A token has fewer than
// 2^31 values.
Status kv_cache_write(const CacheTarget* k, const CacheTarget* v, DType dtype, const int64_t* slots,
                      int64_t tokens, int64_t places, int64_t block_size, int64_t heads,
                      Stream stream);

}  // namespace rocmforge::gpu
