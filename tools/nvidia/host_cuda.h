// CUDA for kernels that translate.py has turned into C++ of the host. Every thread of a block is a
// fiber; they change where a block or a warp meets: at barriers, shuffles and matrix instructions.
//
// Copies to shared memory wait until their group is waited for, so that who reads too early reads
// what was there before: poison, at first. The layouts of matrix instructions are those of PTX ISA,
// "Matrix fragments for mma.m16n8k16", ".m16n8k32", "ldmatrix" and "movmatrix".
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#undef __global__
#undef __device__
#undef __forceinline__
#undef __launch_bounds__
#undef __restrict__
#undef __align__
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __align__(n) alignas(n)

namespace host_cuda {

constexpr int kLanes = 32;
constexpr int kLdsBytes = 227 << 10;  // that a block may have, as on sm_90
constexpr int kComputeUnits = 4;      // few, so that grids stay small

struct Copy {
  void* to;
  std::vector<uint8_t> bytes;
};

struct Warp {
  int alive, waiting;
  uint64_t slots[kLanes];
  uint32_t words[kLanes][6];
};

struct Thread {
  uint3 index;
  int lane;
  Warp* warp;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};

extern Thread* current;
extern uint3 block_index;
extern dim3 block_size, grid_size;

void meet_block();
void meet_warp();
void* dynamic_lds();
// The kernels ahead are done: memory that they write has what they write (see simulate_late).
void follow_previous();
void run(dim3 grid, dim3 block, int lds, const std::function<void()>& kernel);

template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, int lds, const Args&... args) {
  run(grid, block, lds, [&] { kernel(static_cast<Params>(args)...); });
}

// The rest of kernel<<<grid, block, lds, stream>>>(args...).
template <typename Kernel>
struct Launch {
  Kernel kernel;
  dim3 grid, block;
  int lds;
  template <typename... Args>
  void operator()(const Args&... args) const {
    launch(kernel, grid, block, lds, args...);
  }
};
template <typename Kernel>
Launch<Kernel> launcher(Kernel kernel, dim3 grid, dim3 block, int lds, void*) {
  return {kernel, grid, block, lds};
}

// Of `size` bytes the first `used`; the others become zero.
inline void copy_async(const void* from, void* to, int size, int used) {
  Copy copy{to, std::vector<uint8_t>(size)};
  std::memcpy(copy.bytes.data(), from, used);
  current->open.push_back(std::move(copy));
}
inline void close_group() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}
inline void await_groups(size_t left) {
  auto& groups = current->groups;
  for (; groups.size() > left; groups.erase(groups.begin())) {
    for (const Copy& copy : groups[0]) std::memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
  }
}
inline void await_all() {
  close_group();
  await_groups(0);
}

template <typename T>
T shuffle_xor(T value, int mask) {
  Warp& warp = *current->warp;
  std::memcpy(&warp.slots[current->lane], &value, sizeof(T));
  meet_warp();
  T other;
  std::memcpy(&other, &warp.slots[current->lane ^ mask], sizeof(T));
  meet_warp();
  return other;
}

// c = a . b' + c of a warp: element e of a lane is row lane / 4 + 8 * (e / 2), column 2 * (lane %
// 4)
// + e % 2. A has 2 * kParts words a lane, B kParts; word 2 * p + r of A is of row r of the lane's.
template <int kParts, typename Sum, typename Product>
void multiply(Sum (&c)[4], const uint32_t* a, const uint32_t* b, Product product) {
  Warp& warp = *current->warp;
  const int lane = current->lane;
  for (int i = 0; i < 2 * kParts; ++i) warp.words[lane][i] = a[i];
  for (int i = 0; i < kParts; ++i) warp.words[lane][4 + i] = b[i];
  meet_warp();
  for (int e = 0; e < 4; ++e) {
    const int col = 2 * (lane % 4) + e % 2;
    for (int k = 0; k < 4; ++k) {
      for (int p = 0; p < kParts; ++p) {
        c[e] +=
            product(warp.words[lane / 4 * 4 + k][2 * p + e / 2], warp.words[4 * col + k][4 + p]);
      }
    }
  }
  meet_warp();
}

inline float half_at(uint32_t word, int i) {
  const auto bits = static_cast<uint16_t>(word >> (16 * i));
  __half half;
  std::memcpy(&half, &bits, 2);
  return __half2float(half);
}
inline float bfloat16_at(uint32_t word, int i) {
  const uint32_t bits = word >> (16 * i) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// m16n8k16 on float16 or bfloat16; summed in float64, rounded once.
template <typename At>
void multiply_16_bits(float* c, const uint32_t (&a)[4], const uint32_t (&b)[2], At at) {
  double sums[4] = {c[0], c[1], c[2], c[3]};
  multiply<2>(sums, a, b, [&](uint32_t x, uint32_t y) {
    return double{at(x, 0)} * at(y, 0) + double{at(x, 1)} * at(y, 1);
  });
  for (int e = 0; e < 4; ++e) c[e] = static_cast<float>(sums[e]);
}

inline int dot4(uint32_t a, uint32_t b) {
  int sum = 0;
  for (int i = 0; i < 32; i += 8) sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return sum;
}
// m16n8k32 (kParts 2) or m16n8k16 (1) on signed bytes.
template <int kParts>
void multiply_bytes(int* c, const uint32_t (&a)[2 * kParts], const uint32_t (&b)[kParts],
                    int zero) {
  int sums[4] = {zero, zero, zero, zero};
  multiply<kParts>(sums, a, b, dot4);
  for (int e = 0; e < 4; ++e) c[e] = sums[e];
}

// ldmatrix.x4.trans: lane l says where row l % 8 of matrix l / 8 is.
inline void load_transposed(uint32_t (&words)[4], const void* row) {
  Warp& warp = *current->warp;
  const int lane = current->lane;
  warp.slots[lane] = reinterpret_cast<uintptr_t>(row);
  meet_warp();
  for (int i = 0; i < 4; ++i) {
    const auto at = [&](int r) {
      return uint32_t{reinterpret_cast<const uint16_t*>(warp.slots[8 * i + r])[lane / 4]};
    };
    words[i] = at(2 * (lane % 4)) | at(2 * (lane % 4) + 1) << 16;
  }
  meet_warp();
}

// movmatrix.trans: eight rows of four pairs become columns.
inline uint32_t transposed(uint32_t pair) {
  Warp& warp = *current->warp;
  const int lane = current->lane;
  warp.slots[lane] = pair;
  meet_warp();
  const auto at = [&](int row) {
    return static_cast<uint32_t>(warp.slots[4 * row + lane / 8] >> (16 * (lane / 4 % 2)) & 0xffff);
  };
  const uint32_t result = at(lane % 4 * 2) | at(lane % 4 * 2 + 1) << 16;
  meet_warp();
  return result;
}

// prmt: bit 3 of a selector takes the sign of its byte.
inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selectors) {
  const uint64_t bytes = low | uint64_t{high} << 32;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t selector = selectors >> (4 * i);
    uint32_t byte = bytes >> (8 * (selector & 7)) & 255;
    if (selector & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}

}  // namespace host_cuda

#define threadIdx (host_cuda::current->index)
#define blockIdx (host_cuda::block_index)
#define blockDim (host_cuda::block_size)
#define gridDim (host_cuda::grid_size)

inline void __syncthreads() { host_cuda::meet_block(); }
inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float __uint_as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<uint32_t>(bits)); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::lrintf(x)); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return __floats2half2_rn(std::fmaf(__low2float(a), __low2float(b), __low2float(c)),
                           std::fmaf(__high2float(a), __high2float(b), __high2float(c)));
}
inline int __dp4a(int a, int b, int sum) {
  return sum + host_cuda::dot4(static_cast<uint32_t>(a), static_cast<uint32_t>(b));
}
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selectors) {
  return host_cuda::permute_bytes(low, high, selectors & 0x7777);
}
inline uint32_t __funnelshift_l(uint32_t low, uint32_t high, uint32_t by) {
  return by & 31 ? high << (by & 31) | low >> (32 - (by & 31)) : high;
}
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t by) {
  return static_cast<uint32_t>((low | uint64_t{high} << 32) >> (by & 31));
}
