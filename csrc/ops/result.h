// Where results go. An op that returns new tensors is one function that takes a Result for each,
// ahead of its arguments; `implement` registers it twice: as the op itself, whose results are new,
// and as its overload `out`, whose results are the caller's.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "ops/checks.h"

namespace rocmforge {

// In bytes, on every device alike: kernels write so many at once.
inline constexpr uintptr_t kResultAlignment = 16;

// An uninitialized contiguous CPU tensor; unlike new_empty it does not go through the dispatcher.
inline Tensor empty_on_cpu(torch::headeronly::IntHeaderOnlyArrayRef sizes, ScalarType dtype) {
  constexpr size_t kMaxDims = 64;
  int64_t strides[kMaxDims];
  STD_TORCH_CHECK(sizes.size() <= kMaxDims, "tensors have at most 64 dimensions");
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(sizes[i], 1);
  }
  const int32_t type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                  strides, type, aoti_torch_device_type_cpu(), -1,
                                                  &handle));
  return Tensor(handle);
}

// Whether the bytes from a's first to its last element overlap b's.
inline bool share_memory(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0 || b.numel() == 0) return false;
  const auto begin = [](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.const_data_ptr());
  };
  const auto end = [&](const Tensor& t) {
    int64_t last = 0;
    for (int64_t i = 0; i < t.dim(); ++i) last += (t.size(i) - 1) * t.stride(i);
    return begin(t) + (last + 1) * t.element_size();
  };
  return begin(a) < end(b) && begin(b) < end(a);
}
inline bool share_memory(const Tensor& a, const std::optional<Tensor>& b) {
  return b && share_memory(a, *b);
}
template <typename Other>
bool share_memory(const Tensor&, const Other&) {
  return false;
}

// [like.shape[:-1], last]
inline std::vector<int64_t> shape_with_last(const Tensor& like, int64_t last) {
  std::vector<int64_t> shape(like.sizes().begin(), like.sizes().end());
  shape.back() = last;
  return shape;
}

class Result {
 public:
  Result() = default;  // a new tensor

  // The caller's tensor, argument `name`; `others` are the op's other arguments.
  template <typename... Others>
  Result(const char* name, const Tensor& given, const Others&... others)
      : name_(name), given_(&given), overlaps_((share_memory(given, others) || ...)) {}

  // The tensor to write to: contiguous, on the device of `like`. Throws where the caller's is not.
  Tensor tensor(const char* op, torch::headeronly::IntHeaderOnlyArrayRef sizes, ScalarType dtype,
                const Tensor& like) const {
    if (given_ == nullptr) {
      return like.is_cpu() ? empty_on_cpu(sizes, dtype)
                           : torch::stable::new_empty(like, sizes, dtype);
    }
    const Tensor& out = *given_;
    check_dtype(op, name_, out, dtype);
    if (!std::equal(sizes.begin(), sizes.end(), out.sizes().begin(), out.sizes().end())) {
      fail(op, name_, " must have shape ", sizes_text(sizes), ", got ", shape_text(out));
    }
    check(device_name(out) == device_name(like), op, name_, " must be on ", device_name(like),
          " as the arguments are, got ", device_name(out));
    if (!out.is_contiguous()) {
      fail(op, name_, " must be contiguous, got strides ", sizes_text(out.strides()));
    }
    check(!overlaps_, op, name_, " shares memory with an argument or with another result");
    const auto address = reinterpret_cast<uintptr_t>(out.const_data_ptr());
    check(address % kResultAlignment == 0, op, name_, " must start at a multiple of ",
          kResultAlignment, " bytes, got ", address % kResultAlignment, " more");
    return out;
  }

 private:
  const char* name_ = nullptr;
  const Tensor* given_ = nullptr;
  bool overlaps_ = false;
};

// The two overloads of an op, without and with the tensors for its results.
template <auto Op>
struct Overloads;

template <typename... Args, Tensor (*Op)(const Result&, Args...)>
struct Overloads<Op> {
  static Tensor functional(Args... args) { return Op(Result(), args...); }
  static Tensor out(Args... args, const Tensor& out) {
    return Op(Result("out", out, args...), args...);
  }
};

template <typename... Args, std::tuple<Tensor, Tensor> (*Op)(const Result&, const Result&, Args...)>
struct Overloads<Op> {
  static std::tuple<Tensor, Tensor> functional(Args... args) {
    return Op(Result(), Result(), args...);
  }
  static std::tuple<Tensor, Tensor> out(Args... args, const Tensor& out0, const Tensor& out1) {
    return Op(Result("out0", out0, args...), Result("out1", out1, out0, args...), args...);
  }
};

template <auto Op>
void implement(torch::stable::detail::StableLibrary& m, const char* name) {
  m.impl(name, TORCH_BOX(&Overloads<Op>::functional));
  m.impl((std::string(name) + ".out").c_str(), TORCH_BOX(&Overloads<Op>::out));
}

}  // namespace rocmforge
