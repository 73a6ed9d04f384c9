// Every difference between hipcc and nvcc, in one page. Kernels read vendor-free.
#pragma once

#include <cstdint>

#if defined(__HIP__)

#include <hip/hip_bf16.h>
#include <hip/hip_fp16.h>
#include <hip/hip_runtime.h>

using gpuError_t = hipError_t;
using gpuStream_t = hipStream_t;
using gpu_bfloat16 = __hip_bfloat16;
#define gpuSuccess hipSuccess
#define gpuGetLastError hipGetLastError
#define gpuGetErrorString hipGetErrorString
#define gpuErrorInvalidValue hipErrorInvalidValue

// CDNA runs waves of 64 lanes, RDNA of 32. Device code only: one host program launches on both, so
// a launcher asks device_wave_size().
#if defined(__GFX9__)
constexpr int kWaveSize = 64;
#else
constexpr int kWaveSize = 32;
#endif

// Of the current device.
inline int device_wave_size() {
  int device = 0, lanes = 0;
  if (hipGetDevice(&device) != hipSuccess) return 0;
  if (hipDeviceGetAttribute(&lanes, hipDeviceAttributeWarpSize, device) != hipSuccess) return 0;
  return lanes;
}

inline bool stream_is_captured(hipStream_t stream) {
  hipStreamCaptureStatus status = hipStreamCaptureStatusNone;
  return hipStreamIsCapturing(stream, &status) == hipSuccess &&
         status != hipStreamCaptureStatusNone;
}

// Of the current device; 1 where it does not say.
inline int device_compute_units() {
  int device = 0, units = 0;
  if (hipGetDevice(&device) != hipSuccess) return 1;
  const auto what = hipDeviceAttributeMultiprocessorCount;
  return hipDeviceGetAttribute(&units, what, device) == hipSuccess && units > 0 ? units : 1;
}

// The LDS that a block may have, on the current device.
inline int device_lds_bytes() {
  int device = 0, bytes = 0;
  if (hipGetDevice(&device) != hipSuccess) return 0;
  const auto what = hipDeviceAttributeMaxSharedMemoryPerBlock;
  return hipDeviceGetAttribute(&bytes, what, device) == hipSuccess ? bytes : 0;
}

// Whether the current device has matrix units that serve four waves together, and the library code
// for them (warpgroup_mma.h).
inline bool device_has_warpgroups() { return false; }

// Has to precede a launch with that much dynamic LDS.
template <typename Kernel>
void allow_lds(Kernel, int) {}

// Blocks for every compute unit of a kernel that goes round: RDNA's work-group processors hold 64
// waves of 32, CDNA's compute units 32 of 64.
constexpr int blocks_per_unit(int threads) { return 2048 / threads; }

template <typename T>
__device__ __forceinline__ T wave_shuffle_xor(T value, int mask) {
  return __shfl_xor(value, mask, kWaveSize);
}

// 2^x and 1/x by the hardware's approximations, good to some units in the last place; results below
// the normal numbers are zero.
__device__ __forceinline__ float exp2_of(float x) { return __builtin_amdgcn_exp2f(x); }
__device__ __forceinline__ float reciprocal(float x) { return __builtin_amdgcn_rcpf(x); }

// Keeps instructions on their side of it where the compiler would gather more loads than there are
// registers for.
__device__ __forceinline__ void keep_order() { __builtin_amdgcn_sched_barrier(0); }

// sum + a . b, four signed bytes each.
__device__ __forceinline__ int dot4(int a, int b, int sum) {
#if defined(__gfx11__) || defined(__GFX11__) || defined(__GFX12__)
  return __builtin_amdgcn_sudot4(true, a, true, b, sum, false);
#else
  return __builtin_amdgcn_sdot4(a, b, sum, false);
#endif
}

// A sum of dot4 that starts at kDotZero, as a number. Exact below 2^22.
constexpr int kDotZero = 0;
__device__ __forceinline__ float dot_value(int sum) { return static_cast<float>(sum); }

// An integer below 2^23, of which `mask` cuts the bits.
__device__ __forceinline__ float field_value(uint32_t bits, uint32_t mask) {
  return static_cast<float>(bits & mask);
}

// A value that is the same in all lanes, as a scalar.
__device__ __forceinline__ int wave_uniform(int value) {
  return __builtin_amdgcn_readfirstlane(value);
}

// Four bytes of the eight of low and high. A selector, below 8, says which: made by byte_selector,
// for those from `first` on, or bit by bit, the selector of byte i at selector_shift(i).
constexpr uint32_t byte_selector(int first) { return 0x03020100u + 0x01010101u * first; }
constexpr uint32_t byte_selector(int a, int b, int c, int d) {
  return static_cast<uint32_t>(a | b << 8 | c << 16 | d << 24);
}
__device__ __forceinline__ uint32_t select_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  return __builtin_amdgcn_perm(high, low, selector);
}

__device__ __forceinline__ uint32_t pack_low_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  const uint32_t low = __builtin_amdgcn_perm(b, a, 0x0c0c0400);
  return __builtin_amdgcn_perm(__builtin_amdgcn_perm(d, c, 0x0c0c0400), low, 0x05040100);
}

// Eight bytes by one word of selectors below 8.
constexpr int selector_shift(int i) { return i < 4 ? 8 * i : 8 * (i - 4) + 4; }
__device__ __forceinline__ void select_8_bytes(uint32_t low, uint32_t high, uint32_t selectors,
                                               uint32_t (&bytes)[2]) {
  bytes[0] = __builtin_amdgcn_perm(high, low, selectors & 0x0f0f0f0f);
  bytes[1] = __builtin_amdgcn_perm(high, low, selectors >> 4 & 0x0f0f0f0f);
}

// Four bytes of the eight of low and high, from one of the first four on.
__device__ __forceinline__ uint32_t bytes_from(uint32_t low, uint32_t high, uint32_t first) {
  return __builtin_amdgcn_alignbyte(high, low, first);
}

// What stands `offset` bytes behind the start of a kernel's LDS, to which `start` points. That is
// address 0, since all of it is dynamic; the compiler would add it at every look-up.
template <class Entry>
__device__ __forceinline__ Entry read_lds(const uint8_t*, uint32_t offset) {
  if constexpr (sizeof(Entry) == 4) {
    return *(const __attribute__((address_space(3))) uint32_t*)offset;
  } else {
    using Pair = uint32_t __attribute__((ext_vector_type(2)));
    const Pair pair = *(const __attribute__((address_space(3))) Pair*)offset;
    return {pair.x, pair.y};
  }
}

// factor * (bits & mask) + plus, where nothing is rounded: for an integer below 2^23, of which
// `mask` cuts the bits.
__device__ __forceinline__ float linear_field(uint32_t bits, uint32_t mask, float factor,
                                              float plus) {
  return fmaf(static_cast<float>(bits & mask), factor, plus);
}

// The same for kWidth bits of a word from bit kFrom on: below bit 23, or the topmost.
template <int kFrom, int kWidth>
__device__ __forceinline__ float linear_bits(uint32_t word, float factor, float plus) {
  return linear_field(word >> kFrom, (1 << kWidth) - 1, factor, plus);
}

// The same for byte kByte of a word.
template <int kByte>
__device__ __forceinline__ float byte_value(uint32_t word, float factor, float plus) {
  return linear_field(word >> (8 * kByte), 255, factor, plus);
}

// Four bits of a word from bit kFrom on, a multiple of 4, as bytes of 0 and kSpreadBit.
constexpr int kSpreadBit = 2;
template <int kFrom>
__device__ __forceinline__ uint32_t spread_bits(uint32_t word) {
  return (word >> kFrom & 15) * (0x00204081 * kSpreadBit) & (0x01010101 * kSpreadBit);
}

// 16 bytes to look up.
struct ByteTable16 {
  uint32_t words[4];
};

// table[n] of the low (0) or high (1) halves n of four bytes.
template <int Half>
__device__ __forceinline__ int look_up_nibbles(const ByteTable16& table, uint32_t bytes) {
  const uint32_t index = bytes >> (4 * Half);
  const uint32_t at = index & 0x07070707;
  const uint32_t low = __builtin_amdgcn_perm(table.words[1], table.words[0], at);
  const uint32_t high = __builtin_amdgcn_perm(table.words[3], table.words[2], at);
  const uint32_t choice = 0x03020100 | (index & 0x08080808) >> 1;
  return static_cast<int>(__builtin_amdgcn_perm(high, low, choice));
}

// The values of the low and of the high halves of four bytes, among the 16 bytes of tables.level(i)
// for i = 0 to 3.
template <class Tables>
__device__ __forceinline__ void look_up_halves(const Tables& tables, uint32_t bytes, int& low,
                                               int& high) {
  const ByteTable16 table = {{tables.level(0), tables.level(1), tables.level(2), tables.level(3)}};
  low = look_up_nibbles<0>(table, bytes), high = look_up_nibbles<1>(table, bytes);
}

// The same of values below 128.
template <class Tables>
__device__ __forceinline__ void look_up_small_halves(const Tables& tables, uint32_t bytes, int& low,
                                                     int& high) {
  look_up_halves(tables, bytes, low, high);
}

// Whether look-ups find the values of both halves of a byte side by side, so that x had better be
// in that order: here they come apart.
constexpr bool kPairsHalves = false;

// Whether tables for random look-ups should be there in copies: not here, since LDS is scarce, and
// fast for what memory gives.
constexpr bool kCopiesTables = false;

// Products and sums that are rounded on their own, never fused into one operation.
__device__ __forceinline__ float mul_rn(float a, float b) {
#pragma clang fp contract(off)
  return a * b;
}
__device__ __forceinline__ float add_rn(float a, float b) {
#pragma clang fp contract(off)
  return a + b;
}

// Two numbers rounded to bfloat16, the first in the low half. Of NaNs, those that arithmetic makes
// stay NaN.
__device__ __forceinline__ uint32_t bfloat16_pair(float low, float high) {
  const auto rounded = [](float x) {
    const uint32_t bits = __float_as_uint(x);
    return bits + 0x7fff + (bits >> 16 & 1);
  };
  return __builtin_amdgcn_perm(rounded(high), rounded(low), 0x07060302);
}

// Words from an even address behind two bytes that can be read too: fetch() starts to read them,
// join() waits. What is between them is of no interest.
template <int Words>
struct EvenWords {
  static constexpr int kParts = Words;
  static __device__ __forceinline__ void fetch(const uint8_t* from, uint32_t* parts) {
    uint32_t words[Words];
    __builtin_memcpy(words, __builtin_assume_aligned(from, 2), sizeof(words));
#pragma unroll
    for (int i = 0; i < Words; ++i) parts[i] = words[i];
  }
  static __device__ __forceinline__ void join(const uint32_t* parts, uint32_t (&words)[Words]) {
#pragma unroll
    for (int i = 0; i < Words; ++i) words[i] = parts[i];
  }
};

// Whether e4m3_halves is there: bytes 0 and 1 (Half = 0) or 2 and 3, OCP e4m3 numbers, as float16
// in one instruction.
constexpr bool kConvertsE4M3 = false;
template <int Half>
__device__ __forceinline__ uint32_t e4m3_halves(uint32_t) {
  return 0;
}

// 16 bytes on their way from global memory to LDS: fetch() starts, land() ends it; then a barrier.
// Both addresses are 16-byte aligned and the same in both.
struct LdsCopy {
  uint32_t words[4];
  __device__ __forceinline__ void fetch(const void* from, void*) {
    const uint4 v = *static_cast<const uint4*>(from);
    words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
  }
  __device__ __forceinline__ void land(void* to) const {
    *static_cast<uint4*>(to) = {words[0], words[1], words[2], words[3]};
  }
};

// The same for 2, 4, 8 or 16 bytes, many in a row: groups of copies are closed one after the other,
// and await_copies<N> waits for all groups but the last N. Without hardware for it they are there
// at once.
template <int Bytes>
__device__ __forceinline__ void copy_to_lds(const void* from, void* to) {
  __builtin_memcpy(__builtin_assume_aligned(to, Bytes), __builtin_assume_aligned(from, Bytes),
                   Bytes);
}
// Only the first `bytes` of them, 0 to Bytes; the others become zero.
template <int Bytes>
__device__ __forceinline__ void copy_to_lds(const void* from, void* to, int bytes) {
  for (int i = 0; i < Bytes; ++i) {
    static_cast<uint8_t*>(to)[i] = i < bytes ? static_cast<const uint8_t*>(from)[i] : 0;
  }
}
__device__ __forceinline__ void close_copies() {}
template <int Groups>
__device__ __forceinline__ void await_copies() {}

// Whether a wave has the weights that it reads next copied to LDS instead of holding them in
// registers: not where loads come back in order and a wave waits for the oldest alone.
constexpr bool kCopiesAhead = false;
// The lanes of a wave see what each has written to LDS before.
__device__ __forceinline__ void wave_barrier() {
  __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "wavefront");
  __builtin_amdgcn_wave_barrier();
}

template <typename T>
__device__ __forceinline__ T* lds_address(T* pointer) {
  return pointer;
}
template <typename T>
__device__ __forceinline__ T* kept_address(T* pointer) {
  return pointer;
}
__device__ __forceinline__ int kept(int value) { return value; }

// A kernel that launch_early() starts may begin while the one before it in the stream still runs.
// It calls follow_previous() before it touches memory that another kernel writes or reads: that
// waits for those before it, and lets the next one begin; let_next_begin() does that before. What
// it reads it may not call `const ... __restrict__`: that says that nobody writes there as long as
// the kernel runs, and has nvcc read past the caches' coherence. Here the start is an ordinary one.
constexpr bool kStartsEarly = false;
// launch_early_clusters() makes clusters of so many blocks where kHasClusters says that there are
// any.
template <typename... Params, typename... Args>
void launch_early_clusters(void (*kernel)(Params...), int, dim3 grid, dim3 block, int lds,
                           gpuStream_t stream, const Args&... args) {
  kernel<<<grid, block, lds, stream>>>(args...);
}
template <typename... Params, typename... Args>
void launch_early(void (*kernel)(Params...), dim3 grid, dim3 block, int lds, gpuStream_t stream,
                  const Args&... args) {
  kernel<<<grid, block, lds, stream>>>(args...);
}
__device__ __forceinline__ void follow_previous() {}
__device__ __forceinline__ void let_next_begin() {}

// Whether blocks of a cluster, neighbours in the grid that run at the same time, can read each
// other's LDS, of kernels for which can_cluster() is true: cluster_rank() is a block's place in its
// own, lds_of_block() where the block of a place has what `pointer` points to, and after
// cluster_barrier() it has written what it was to write.
constexpr bool kHasClusters = false;
template <typename Kernel>
bool can_cluster(Kernel) {
  return false;
}
__device__ __forceinline__ int cluster_rank() { return 0; }
__device__ __forceinline__ void cluster_barrier() {}
template <typename T>
__device__ __forceinline__ T* lds_of_block(T* pointer, int) {
  return pointer;
}

#else  // nvcc

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

using gpuError_t = cudaError_t;
using gpuStream_t = cudaStream_t;
using gpu_bfloat16 = __nv_bfloat16;
#define gpuSuccess cudaSuccess
#define gpuGetLastError cudaGetLastError
#define gpuGetErrorString cudaGetErrorString
#define gpuErrorInvalidValue cudaErrorInvalidValue

constexpr int kWaveSize = 32;
inline int device_wave_size() { return kWaveSize; }
inline bool stream_is_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) == cudaSuccess &&
         status != cudaStreamCaptureStatusNone;
}
inline int device_compute_units() {
  int device = 0, units = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  const auto what = cudaDevAttrMultiProcessorCount;
  return cudaDeviceGetAttribute(&units, what, device) == cudaSuccess && units > 0 ? units : 1;
}

inline int device_lds_bytes() {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  const auto what = cudaDevAttrMaxSharedMemoryPerBlockOptin;
  return cudaDeviceGetAttribute(&bytes, what, device) == cudaSuccess ? bytes : 0;
}

inline bool device_has_warpgroups() {
#if defined(ROCMFORGE_WARPGROUPS)
  int device = 0, major = 0, minor = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess &&
         major == 9 && minor == 0;
#else
  return false;
#endif
}

template <typename Kernel>
void allow_lds(Kernel kernel, int bytes) {
  if (bytes <= 32 << 10) return;  // beside it there is room for some that is static
  // A failure shows in the launch that follows.
  (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

// A multiprocessor has 65536 registers: for 1024 threads of 64, or 512 of 128.
constexpr int blocks_per_unit(int) { return 1; }

template <typename T>
__device__ __forceinline__ T wave_shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask, kWaveSize);
}

__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ void keep_order() {}

__device__ __forceinline__ int dot4(int a, int b, int sum) { return __dp4a(a, b, sum); }

// The sum starts as the bits of 1.5 * 2^23: a subtraction instead of a slow conversion.
constexpr int kDotZero = 0x4b400000;
__device__ __forceinline__ float dot_value(int sum) { return __int_as_float(sum) - 12582912.0f; }

__device__ __forceinline__ float field_value(uint32_t bits, uint32_t mask) {
  return __uint_as_float((bits & mask) | 0x4b000000) - 8388608.0f;
}

__device__ __forceinline__ int wave_uniform(int value) { return value; }

constexpr uint32_t byte_selector(int first) { return 0x3210u + 0x1111u * first; }
constexpr uint32_t byte_selector(int a, int b, int c, int d) {
  return static_cast<uint32_t>(a | b << 4 | c << 8 | d << 12);
}
// Bit 3 of a selector would ask for the sign of its byte; __byte_perm clears it.
__device__ __forceinline__ uint32_t select_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t bytes;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selector));
  return bytes;
}

__device__ __forceinline__ uint32_t pack_low_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

constexpr int selector_shift(int i) { return 4 * i; }
__device__ __forceinline__ void select_8_bytes(uint32_t low, uint32_t high, uint32_t selectors,
                                               uint32_t (&bytes)[2]) {
  bytes[0] = select_bytes(low, high, selectors);
  bytes[1] = select_bytes(low, high, selectors >> 16);
}

template <class Entry>
__device__ __forceinline__ Entry read_lds(const uint8_t* start, uint32_t offset) {
  return *reinterpret_cast<const Entry*>(start + offset);
}

__device__ __forceinline__ uint32_t bytes_from(uint32_t low, uint32_t high, uint32_t first) {
  return select_bytes(low, high, byte_selector(0) + first * (byte_selector(1) - byte_selector(0)));
}

// The bits become those of 2^23 plus the integer: a multiplication instead of a slow conversion.
__device__ __forceinline__ float linear_field(uint32_t bits, uint32_t mask, float factor,
                                              float plus) {
  return fmaf(__uint_as_float((bits & mask) | 0x4b000000), factor, plus - 8388608.0f * factor);
}
// The bits stay where they are, which is part of the factor; the topmost are shifted together with
// those of 2^23.
template <int kFrom, int kWidth>
__device__ __forceinline__ float linear_bits(uint32_t word, float factor, float plus) {
  constexpr uint32_t k2To23 = 0x4b000000;
  if constexpr (kFrom + kWidth == 32) {
    const uint32_t bits = __funnelshift_l(word, k2To23 >> kWidth, kWidth);
    return fmaf(__uint_as_float(bits), factor, plus - 8388608.0f * factor);
  } else {
    static_assert(kFrom + kWidth <= 23);
    constexpr uint32_t mask = ((1u << kWidth) - 1) << kFrom;
    uint32_t bits;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(bits) : "r"(word), "n"(mask), "r"(k2To23));
    const float step = factor / (1 << kFrom);
    return fmaf(__uint_as_float(bits), step, plus - 8388608.0f * step);
  }
}
template <int kByte>
__device__ __forceinline__ float byte_value(uint32_t word, float factor, float plus) {
  const uint32_t bits = select_bytes(word, 0x4b000000, 0x7650 + kByte);
  return fmaf(__uint_as_float(bits), factor, plus - 8388608.0f * factor);
}

// Both halves of a byte are spread from where they are, so that bytes alone are shifted.
constexpr int kSpreadBit = 16;
template <int kFrom>
__device__ __forceinline__ uint32_t spread_bits(uint32_t word) {
  constexpr int kHalf = kFrom % 8;
  constexpr uint32_t ways = 0x00204081 << (4 - kHalf);
  return (word >> (kFrom - kHalf) & 15 << kHalf) * ways & 0x10101010;
}

struct ByteTable16 {
  uint32_t words[4];
};

// A selector takes four neighbouring halves: both of two bytes.
__device__ __forceinline__ void part_halves(const uint32_t (&found)[2], int& low, int& high) {
  low = static_cast<int>(select_bytes(found[0], found[1], 0x6420));
  high = static_cast<int>(select_bytes(found[0], found[1], 0x7531));
}

template <class Tables>
__device__ __forceinline__ void look_up_halves(const Tables& tables, uint32_t bytes, int& low,
                                               int& high) {
  const uint32_t at = bytes & 0x77777777, choice = 0x32103210 | (bytes & 0x88888888) >> 1;
  uint32_t found[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t first = select_bytes(tables.level(0), tables.level(1), at >> (16 * i));
    const uint32_t second = select_bytes(tables.level(2), tables.level(3), at >> (16 * i));
    found[i] = select_bytes(first, second, choice >> (16 * i));
  }
  part_halves(found, low, high);
}

// Of a selector above 7 comes the sign of a byte, which is zero here.
template <class Tables>
__device__ __forceinline__ void look_up_small_halves(const Tables& tables, uint32_t bytes, int& low,
                                                     int& high) {
  const uint32_t others = bytes ^ 0x88888888;
  uint32_t found[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    found[i] = select_bytes(tables.level(0), tables.level(1), bytes >> (16 * i)) |
               select_bytes(tables.level(2), tables.level(3), others >> (16 * i));
  }
  part_halves(found, low, high);
}

constexpr bool kPairsHalves = true;

// Lanes that look up different rows of a table wait for each other where they meet in a bank of
// shared memory; with a copy per bank they never do.
constexpr bool kCopiesTables = true;

__device__ __forceinline__ float mul_rn(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add_rn(float a, float b) { return __fadd_rn(a, b); }

__device__ __forceinline__ uint32_t bfloat16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <int Words>
struct EvenWords {
  static constexpr int kParts = Words + 2;  // aligned words, the last two bytes, bits to shift by
  static __device__ __forceinline__ void fetch(const uint8_t* from, uint32_t* parts) {
    const auto odd = static_cast<unsigned>(reinterpret_cast<uintptr_t>(from) & 2);
    const auto* aligned = reinterpret_cast<const uint32_t*>(from - odd);
#pragma unroll
    for (int i = 0; i < Words; ++i) parts[i] = aligned[i];
    parts[Words] = *reinterpret_cast<const uint16_t*>(from + 4 * Words - 2);
    parts[Words + 1] = 8 * odd;
  }
  static __device__ __forceinline__ void join(const uint32_t* parts, uint32_t (&words)[Words]) {
#pragma unroll
    for (int i = 0; i < Words; ++i) {
      words[i] = __funnelshift_r(parts[i], parts[i + 1], parts[Words + 1]);
    }
  }
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
constexpr bool kConvertsE4M3 = true;
template <int Half>
__device__ __forceinline__ uint32_t e4m3_halves(uint32_t bytes) {
  uint32_t halves;
  if constexpr (Half) {
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.rn.f16x2.e4m3x2 %0, high;}"
        : "=r"(halves)
        : "r"(bytes));
  } else {
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<uint16_t>(bytes)));
  }
  return halves;
}
#else
constexpr bool kConvertsE4M3 = false;
template <int Half>
__device__ __forceinline__ uint32_t e4m3_halves(uint32_t) {
  return 0;
}
#endif

// A wave waits for registers by six counters that all its loads share, so that it cannot hold loads
// of different age under way; copies to LDS it can.
constexpr bool kCopiesAhead = true;
// The lanes of a wave see what each has written to LDS before.
__device__ __forceinline__ void wave_barrier() { __syncwarp(); }

template <int Bytes>
__device__ __forceinline__ void copy_to_lds(const void* from, void* to) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (Bytes == 2) {  // too few for the hardware: at once
    *static_cast<uint16_t*>(to) = *static_cast<const uint16_t*>(from);
  } else if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address),
                 "l"(__cvta_generic_to_global(from))
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address),
                 "l"(__cvta_generic_to_global(from)), "n"(Bytes)
                 : "memory");
  }
}
template <int Bytes>
__device__ __forceinline__ void copy_to_lds(const void* from, void* to, int bytes) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (Bytes == 2) {
    *static_cast<uint16_t*>(to) = bytes == 2 ? *static_cast<const uint16_t*>(from) : 0;
  } else if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address),
                 "l"(__cvta_generic_to_global(from)), "n"(Bytes), "r"(bytes)
                 : "memory");
  }
}
__device__ __forceinline__ void close_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int Groups>
__device__ __forceinline__ void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
}

struct LdsCopy {
  __device__ __forceinline__ void fetch(const void* from, void* to) { copy_to_lds<16>(from, to); }
  __device__ __forceinline__ void land(void*) const {
    asm volatile("cp.async.wait_all;" ::: "memory");
  }
};

// The same pointer to LDS, which the compiler will keep rather than compute at every use.
template <typename T>
__device__ __forceinline__ T* lds_address(T* pointer) {
  auto address = static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
  asm volatile("" : "+r"(address));
  return static_cast<T*>(__cvta_shared_to_generic(address));
}
// The same of device memory.
template <typename T>
__device__ __forceinline__ T* kept_address(T* pointer) {
  asm volatile("" : "+l"(pointer));
  return pointer;
}
// A value that is worked out here, and not where it is used.
__device__ __forceinline__ int kept(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

constexpr bool kStartsEarly = true;
// Whether a kernel was compiled for cards of this generation or newer ones, also where such a card
// runs what is older.
template <typename Kernel>
bool is_for_hopper(Kernel kernel) {
  cudaFuncAttributes code{};
  return cudaFuncGetAttributes(&code, kernel) == cudaSuccess && code.ptxVersion >= 90;
}
template <typename... Params, typename... Args>
void launch_early_clusters(void (*kernel)(Params...), int cluster, dim3 grid, dim3 block, int lds,
                           gpuStream_t stream, const Args&... args) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(lds), config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = !is_for_hopper(kernel) ? 0 : cluster > 1 ? 2 : 1;
  // A failure is the last error, too.
  (void)cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}
template <typename... Params, typename... Args>
void launch_early(void (*kernel)(Params...), dim3 grid, dim3 block, int lds, gpuStream_t stream,
                  const Args&... args) {
  launch_early_clusters(kernel, 1, grid, block, lds, stream, args...);
}
__device__ __forceinline__ void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void follow_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  let_next_begin();
}

constexpr bool kHasClusters = true;
template <typename Kernel>
bool can_cluster(Kernel kernel) {
  return is_for_hopper(kernel);
}
__device__ __forceinline__ int cluster_rank() {
  uint32_t rank = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return static_cast<int>(rank);
}
__device__ __forceinline__ void cluster_barrier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
#endif
}
template <typename T>
__device__ __forceinline__ T* lds_of_block(T* pointer, int rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("mapa.u64 %0, %1, %2;" : "=l"(pointer) : "l"(pointer), "r"(rank));
#endif
  return pointer;
}

#endif
