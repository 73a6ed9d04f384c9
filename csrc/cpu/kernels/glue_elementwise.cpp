#include "cpu/kernels/float8.h"
#include "cpu/kernels/glue_functions.h"
#include "cpu/kernels/glue_math.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {
namespace {

struct Silu {
  RF_INLINE f32xW operator()(f32xW x) const { return x * sigmoid(x); }
};

// The tanh form: x / 2 * (1 + tanh(u)) is x * sigmoid(2u), which does not cancel.
struct Gelu {
  RF_INLINE f32xW operator()(f32xW x) const {
    return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));
  }
};

template <typename T, typename F>
void gated_rows(F activation, const Rows& gate, const Rows& up, T* out, int64_t width,
                int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* g = static_cast<const T*>(gate.data) + gate.offset(row);
    const T* u = static_cast<const T*>(up.data) + up.offset(row);
    map(width, g, u, out + row * width,
        [&](f32xW a, f32xW b) __attribute__((always_inline)) { return activation(a) * b; });
  }
}

}  // namespace

void gated(DType dtype, Activation activation, const Rows& gate, const Rows& up, void* out,
           int64_t width, int64_t begin, int64_t end) {
  with_element(dtype, [&](auto element) {
    using T = decltype(element);
    T* to = static_cast<T*>(out);
    switch (activation) {
      case Activation::kSilu:
        return gated_rows(Silu{}, gate, up, to, width, begin, end);
      case Activation::kGelu:
        return gated_rows(Gelu{}, gate, up, to, width, begin, end);
    }
  });
}

void accumulate(DType dtype, const void* src, void* dst, int64_t count) {
  with_element(dtype, [&](auto element) {
    using T = decltype(element);
    T* to = static_cast<T*>(dst);
    map(count, static_cast<const T*>(to), static_cast<const T*>(src), to,
        [](f32xW a, f32xW b) __attribute__((always_inline)) { return a + b; });
  });
}

void convert(DType from, const void* src, CacheType to, void* dst, int64_t count) {
  with_element(from, [&](auto source) {
    with_plain_cache(to, [&](auto target) {
      const auto* in = static_cast<const decltype(source)*>(src);
      auto* out = static_cast<decltype(target)*>(dst);
      int64_t i = 0;
      for (; i + kLanes <= count; i += kLanes) store_floats(out + i, load_floats(in + i));
      if (i < count) store_floats(out + i, load_floats(in + i, count - i), count - i);
    });
  });
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
