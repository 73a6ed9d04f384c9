// Small helpers of the GPU registrations: device guard, current stream, dtype, launch errors.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "hip/launch.h"
#include "ops/checks.h"

// Exported by every CUDA and ROCm libtorch; declared there only under USE_CUDA.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace rocmforge {

// What this library holds code for, e.g. "sm_80 sm_90 compute_90".
const char* gpu_architectures();

// Makes a tensor's device current and holds its current stream.
class GpuLaunch {
 public:
  GpuLaunch(const char* op, const Tensor& tensor)
      : op_(op), device_(tensor.get_device_index()), guard_(device_) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream_));
  }

  gpu::Stream stream() const { return stream_; }
  int device() const { return device_; }

  void done(gpu::Status status) const {
    if (status == nullptr) return;
    fail(op_, "the kernel did not start: ", status, " (this library holds code for ",
         gpu_architectures(), "; `rocmforge doctor` says whether that fits the card)");
  }

 private:
  const char* op_;
  int device_;
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

inline gpu::DType gpu_dtype(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Half:
      return gpu::DType::kFloat16;
    case ScalarType::BFloat16:
      return gpu::DType::kBFloat16;
    default:
      return gpu::DType::kFloat32;
  }
}

}  // namespace rocmforge
