// Checks of op arguments, for CPU and GPU registrations alike. A failed check throws one sentence
// that names the op and the argument; torch turns it into a RuntimeError.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace rocmforge {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Text of a part of a message. No streams: where the library carries a libstdc++ of its own beside
// the process's, theirs crash.
template <typename Part>
std::string text_of(const Part& part) {
  if constexpr (std::is_arithmetic_v<Part>) {
    return std::to_string(part);
  } else {
    return part;
  }
}

template <typename... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  throw std::runtime_error((std::string("rocmforge::") + op + ": " + ... + text_of(parts)));
}

template <typename... Parts>
void check(bool condition, const char* op, const Parts&... parts) {
  if (!condition) fail(op, parts...);
}

inline bool is_float(ScalarType t) {
  return t == ScalarType::Float || t == ScalarType::Half || t == ScalarType::BFloat16;
}

// PyTorch's name of a dtype, as messages from Python have it.
inline const char* dtype_name(ScalarType t) {
  switch (t) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::UInt16:
      return "uint16";
    case ScalarType::UInt32:
      return "uint32";
    case ScalarType::UInt64:
      return "uint64";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::ComplexHalf:
      return "complex32";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    case ScalarType::Float8_e4m3fn:
      return "float8_e4m3fn";
    case ScalarType::Float8_e4m3fnuz:
      return "float8_e4m3fnuz";
    case ScalarType::Float8_e5m2:
      return "float8_e5m2";
    case ScalarType::Float8_e5m2fnuz:
      return "float8_e5m2fnuz";
    case ScalarType::Float8_e8m0fnu:
      return "float8_e8m0fnu";
    default:
      return "another dtype";
  }
}

inline std::string device_name(const Tensor& t) {
  if (t.is_cpu()) return "cpu";
  return t.is_cuda() ? "cuda:" + std::to_string(t.get_device_index()) : "another device";
}

template <typename Sizes>
std::string sizes_text(const Sizes& sizes) {
  std::string text;
  for (int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

inline std::string shape_text(const Tensor& t) { return sizes_text(t.sizes()); }

inline void check_float(const char* op, const char* name, const Tensor& t) {
  check(is_float(t.scalar_type()), op, name, " must be float32 or float16 or bfloat16, got ",
        dtype_name(t.scalar_type()));
}

inline void check_same_dtype(const char* op, const char* name, const Tensor& t,
                             const Tensor& like) {
  check(t.scalar_type() == like.scalar_type(), op, name, " must be ",
        dtype_name(like.scalar_type()), ", got ", dtype_name(t.scalar_type()));
}

inline void check_int(const char* op, const char* name, const Tensor& t) {
  check(t.scalar_type() == ScalarType::Long || t.scalar_type() == ScalarType::Int, op, name,
        " must be int64 or int32, got ", dtype_name(t.scalar_type()));
}

inline void check_dtype(const char* op, const char* name, const Tensor& t, ScalarType wanted) {
  check(t.scalar_type() == wanted, op, name, " must be ", dtype_name(wanted), ", got ",
        dtype_name(t.scalar_type()));
}

inline void check_dim(const char* op, const char* name, const Tensor& t, int64_t least) {
  if (t.dim() >= least) return;
  fail(op, name, " must have at least ", least, " dimension(s), got shape ", shape_text(t));
}

inline void check_shape(const char* op, const char* name, const Tensor& t,
                        std::initializer_list<int64_t> shape) {
  bool same = t.dim() == static_cast<int64_t>(shape.size());
  int64_t i = 0;
  for (int64_t size : shape) same = same && t.size(i++) == size;
  if (same) return;
  fail(op, name, " must have shape ", sizes_text(shape), ", got ", shape_text(t));
}

inline void check_same_shape(const char* op, const char* name, const Tensor& t,
                             const Tensor& like) {
  bool same = t.dim() == like.dim();
  for (int64_t i = 0; same && i < t.dim(); ++i) same = t.size(i) == like.size(i);
  if (!same) fail(op, name, " must have shape ", shape_text(like), ", got ", shape_text(t));
}

inline void check_device(const char* op, const char* name, const Tensor& t, const Tensor& other,
                         const char* other_name) {
  const bool same = t.is_cpu() ? other.is_cpu()
                               : t.is_cuda() && other.is_cuda() &&
                                     t.get_device_index() == other.get_device_index();
  if (same) return;
  fail(op, name, " is on ", device_name(t), " but ", other_name, " is on ", device_name(other),
       "; they must be on one device");
}

}  // namespace rocmforge
