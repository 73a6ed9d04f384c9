// Matrix units that serve four waves together and read one factor from LDS, as NVIDIA's Hopper has
// them: a wave multiplies 16 rows of float16 in registers by the rows of a matrix in LDS.
//
// A wave calls add() between begin_products() and close_products(); await_products<N> waits until
// all closed ones but the last N are done, and with them the registers that they read are free.
// The matrix has kCols rows of 16 values for each add(): eight values of every row, 16 bytes each,
// row after row, then the other eight. Lanes have of their 16 rows what mma() of mma.h takes.
#pragma once

#include "hip/mma.h"

#if defined(ROCMFORGE_WARPGROUPS)

namespace rocmforge::gpu {

// Where the units find a matrix of LDS that stands as above: its address, and how far eights of
// values and of rows are apart, in 16 bytes.
template <int kCols>
__device__ __forceinline__ uint64_t unit_matrix(const __half* from) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(from));
  constexpr uint64_t kValuesApart = kCols, kRowsApart = 8;
  return (address >> 4 & 0x3fff) | kValuesApart << 16 | kRowsApart << 32;
}

#define ROCMFORGE_FOUR(i) \
  "+f"(values[i]), "+f"(values[i + 1]), "+f"(values[i + 2]), "+f"(values[i + 3])

// Sums of a lane: element 4 * t + e is that of row lane / 4 + e / 2 * 8 and column
// 8 * t + lane % 4 * 2 + e % 2.
template <int kCols>
struct WarpgroupTile {
  static_assert(kCols == 32 || kCols == 64);
  float values[kCols / 2];

  __device__ __forceinline__ void add(const uint32_t (&a)[4], const __half* b) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    const uint64_t matrix = unit_matrix<kCols>(b);
    if constexpr (kCols == 32) {
      asm volatile(
          "{.reg .pred p; setp.eq.u32 p, 0, 0; "
          "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
          "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
          "{%16, %17, %18, %19}, %20, p, 1, 1, 0;}"
          : ROCMFORGE_FOUR(0), ROCMFORGE_FOUR(4), ROCMFORGE_FOUR(8), ROCMFORGE_FOUR(12)
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(matrix));
    } else {
      asm volatile(
          "{.reg .pred p; setp.eq.u32 p, 0, 0; "
          "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
          "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
          "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
          "{%32, %33, %34, %35}, %36, p, 1, 1, 0;}"
          : ROCMFORGE_FOUR(0), ROCMFORGE_FOUR(4), ROCMFORGE_FOUR(8), ROCMFORGE_FOUR(12),
            ROCMFORGE_FOUR(16), ROCMFORGE_FOUR(20), ROCMFORGE_FOUR(24), ROCMFORGE_FOUR(28)
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(matrix));
    }
#endif
  }
};

#undef ROCMFORGE_FOUR

__device__ __forceinline__ void begin_products() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void close_products() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int Groups>
__device__ __forceinline__ void await_products() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Groups) : "memory");
#endif
}

// A place in LDS that one thread has filled from memory and that waves then read, again and again.
// Both sides count the rounds of a place; a wave that is done with one releases it.
struct BulkPlace {
  uint64_t filled, released;

  // By one thread, before a barrier of the block.
  __device__ __forceinline__ void init(int waves) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(at(filled)) : "memory");
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at(released)), "r"(waves)
                 : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
  }
  // By one thread: starts to copy; both ends and the size are multiples of 16 bytes.
  __device__ __forceinline__ void fill(void* to, const void* from, int bytes) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at(filled)),
                 "r"(bytes)
                 : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
        "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(at(filled))
        : "memory");
#endif
  }
  __device__ __forceinline__ void await_filled(int round) const { await(at(filled), round); }
  __device__ __forceinline__ void await_released(int round) const { await(at(released), round); }
  // By one lane of every wave.
  __device__ __forceinline__ void release() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at(released)) : "memory");
#endif
  }

 private:
  static __device__ __forceinline__ uint32_t at(const uint64_t& barrier) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(&barrier));
  }
  static __device__ __forceinline__ void await(uint32_t barrier, int round) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile(
        "{.reg .pred done; "
        "again_%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; "
        "@!done bra again_%=;}" ::"r"(barrier),
        "r"(round & 1)
        : "memory");
#endif
  }
};

}  // namespace rocmforge::gpu

#endif
