// Every difference between hipcc and nvcc, in one page. Kernels read vendor-free.
#pragma once

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

template <typename T>
__device__ __forceinline__ T wave_shuffle_xor(T value, int mask) {
  return __shfl_xor(value, mask, kWaveSize);
}

// sum + a . b, four signed bytes each.
__device__ __forceinline__ int dot4(int a, int b, int sum) {
#if defined(__gfx11__) || defined(__GFX11__) || defined(__GFX12__)
  return __builtin_amdgcn_sudot4(true, a, true, b, sum, false);
#else
  return __builtin_amdgcn_sdot4(a, b, sum, false);
#endif
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

template <typename T>
__device__ __forceinline__ T wave_shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask, kWaveSize);
}

__device__ __forceinline__ int dot4(int a, int b, int sum) { return __dp4a(a, b, sum); }

#endif
