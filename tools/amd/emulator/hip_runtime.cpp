// A HIP runtime that owns no GPU: kernel launches go to a function that the loader of this library
// sets, everything else works on host memory. Launchers run over it as they run over ROCm.
#include <hip/hip_runtime_api.h>

#include <cstring>
#include <map>
#include <string>

namespace {

using Launch = int (*)(const char* kernel, const unsigned grid[3], const unsigned block[3],
                       void** arguments, size_t dynamic_lds);

Launch launch_function = nullptr;
int warp_size = 0;
int compute_units = 0;
hipError_t last_error = hipSuccess;

struct Configuration {
  dim3 grid, block;
  size_t dynamic_lds;
  hipStream_t stream;
};
Configuration pushed;

std::map<const void*, std::string>& kernels() {
  static std::map<const void*, std::string> names;
  return names;
}

hipError_t fail(hipError_t error) { return last_error = error; }

}  // namespace

extern "C" {

void emulator_configure(Launch launch, int wave, int units) {
  launch_function = launch;
  warp_size = wave;
  compute_units = units;
}

void** __hipRegisterFatBinary(const void*) {
  static void* module = nullptr;
  return &module;
}
void __hipUnregisterFatBinary(void**) {}
void __hipRegisterFunction(void**, const void* host, char*, const char* name, unsigned, void*,
                           void*, void*, void*, int*) {
  kernels()[host] = name;
}

hipError_t __hipPushCallConfiguration(dim3 grid, dim3 block, size_t dynamic_lds,
                                      hipStream_t stream) {
  pushed = {grid, block, dynamic_lds, stream};
  return hipSuccess;
}
hipError_t __hipPopCallConfiguration(dim3* grid, dim3* block, size_t* dynamic_lds,
                                     hipStream_t* stream) {
  *grid = pushed.grid;
  *block = pushed.block;
  *dynamic_lds = pushed.dynamic_lds;
  *stream = pushed.stream;
  return hipSuccess;
}

hipError_t hipLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                           size_t dynamic_lds, hipStream_t) {
  const auto found = kernels().find(function);
  if (found == kernels().end()) return fail(hipErrorInvalidDeviceFunction);
  const unsigned blocks[3] = {grid.x, grid.y, grid.z};
  const unsigned threads[3] = {block.x, block.y, block.z};
  const int status =
      launch_function(found->second.c_str(), blocks, threads, arguments, dynamic_lds);
  return status == 0 ? hipSuccess : fail(hipErrorLaunchFailure);
}

hipError_t hipGetLastError() {
  const hipError_t error = last_error;
  last_error = hipSuccess;
  return error;
}
hipError_t hipPeekAtLastError() { return last_error; }
const char* hipGetErrorString(hipError_t error) {
  return error == hipSuccess ? "no error" : "the emulated launch failed";
}

hipError_t hipGetDevice(int* device) {
  *device = 0;
  return hipSuccess;
}
hipError_t hipStreamIsCapturing(hipStream_t, hipStreamCaptureStatus* status) {
  *status = hipStreamCaptureStatusNone;
  return hipSuccess;
}

hipError_t hipDeviceGetAttribute(int* value, hipDeviceAttribute_t attribute, int) {
  switch (attribute) {
    case hipDeviceAttributeWarpSize:
      *value = warp_size;
      return hipSuccess;
    case hipDeviceAttributeMultiprocessorCount:
      *value = compute_units;
      return hipSuccess;
    case hipDeviceAttributeMaxSharedMemoryPerBlock:
      *value = 64 << 10;
      return hipSuccess;
    default:
      return fail(hipErrorInvalidValue);
  }
}
hipError_t hipFuncSetAttribute(const void*, hipFuncAttribute, int) { return hipSuccess; }
hipError_t hipMemsetAsync(void* target, int value, size_t bytes, hipStream_t) {
  std::memset(target, value, bytes);
  return hipSuccess;
}
hipError_t hipMemcpyAsync(void* target, const void* source, size_t bytes, hipMemcpyKind,
                          hipStream_t) {
  std::memcpy(target, source, bytes);
  return hipSuccess;
}

}  // extern "C"
