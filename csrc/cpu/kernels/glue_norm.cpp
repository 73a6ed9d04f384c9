#include "cpu/kernels/glue_functions.h"
#include "cpu/kernels/half.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {
namespace {

template <typename T>
RF_INLINE f32xW load_up_to(const T* p, int64_t n) {
  return n >= kLanes ? load_floats(p) : load_floats(p, n);
}

template <typename T>
RF_INLINE void store_up_to(T* p, f32xW v, int64_t n) {
  n >= kLanes ? store_floats(p, v) : store_floats(p, v, n);
}

// x + residual as its dtype holds it; sum_out may be x.
template <typename T>
void add_row(const T* x, const T* residual, T* sum_out, int64_t width) {
  for (int64_t i = 0; i < width; i += kLanes) {
    const int64_t n = width - i;
    store_up_to(sum_out + i, load_up_to(x + i, n) + load_up_to(residual + i, n), n);
  }
}

template <typename T>
float square_row(const T* x, int64_t width) {
  f32xW squares[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= width; i += 2 * kLanes) {
    for (int j = 0; j < 2; ++j) {
      const f32xW v = load_floats(x + i + j * kLanes);
      squares[j] = fma(v, v, squares[j]);
    }
  }
  for (; i < width; i += kLanes) {
    const f32xW v = load_up_to(x + i, width - i);
    squares[0] = fma(v, v, squares[0]);
  }
  return sum(squares[0] + squares[1]);
}

template <typename T, typename W>
void scale_row(const T* x, float factor, const W* weight, T* out, int64_t width) {
  for (int64_t i = 0; i < width; i += kLanes) {
    const int64_t n = width - i;
    f32xW v = load_up_to(x + i, n) * factor;
    if (weight) v *= load_up_to(weight + i, n);
    store_up_to(out + i, v, n);
  }
}

// x / sqrt(mean(x^2) + eps) * weight.
template <typename T, typename W>
void norm_row(const T* x, const W* weight, float eps, T* out, int64_t width) {
  const float squares = square_row(x, width);
  const float factor = 1.0f / __builtin_sqrtf(squares / static_cast<float>(width) + eps);
  scale_row(x, factor, weight, out, width);
}

template <typename T, typename W>
void rms_norm_rows(const Rows& x, const Rows* residual, const W* weight, const W* x_weight,
                   float eps, T* out, T* sum, int64_t width, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* in = static_cast<const T*>(x.data) + x.offset(row);
    if (residual) {
      T* total = sum + row * width;
      const T* other = static_cast<const T*>(residual->data) + residual->offset(row);
      if (x_weight) {
        norm_row(in, x_weight, eps, total, width);
        in = total;
      }
      add_row(in, other, total, width);
      in = total;
    }
    norm_row(in, weight, eps, out + row * width, width);
  }
}

}  // namespace

void rms_norm(DType dtype, const Rows& x, const Rows* residual, DType weight_dtype,
              const void* weight, const void* x_weight, float eps, void* out, void* sum,
              int64_t width, int64_t begin, int64_t end) {
  with_element(dtype, [&](auto element) {
    using T = decltype(element);
    T* to = static_cast<T*>(out);
    T* total = static_cast<T*>(sum);
    const auto run = [&](auto weight_element) {
      using W = decltype(weight_element);
      rms_norm_rows(x, residual, static_cast<const W*>(weight), static_cast<const W*>(x_weight),
                    eps, to, total, width, begin, end);
    };
    if (weight_dtype == dtype) {
      run(element);
    } else {
      run(float{});
    }
  });
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
