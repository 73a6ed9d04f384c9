#include "cpu/kernels/glue_functions.h"
#include "cpu/kernels/glue_math.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {
namespace {

// cos and sin of one token's angles, times scale; both have room for 7 more.
void angles(const RopeArgs& args, int64_t token, float* cos, float* sin) {
  const float position = static_cast<float>(args.positions[token % args.num_positions]);
  for (int64_t i = 0; i < args.pairs; i += 8) {
    f32x8 inv_freq = {};
    if (i + 8 <= args.pairs) {
      inv_freq = load<f32x8>(args.inv_freq + i);
    } else {
      for (int64_t j = i; j < args.pairs; ++j) inv_freq[j - i] = args.inv_freq[j];
    }
    f32x8 s, c;
    sin_cos(inv_freq * position, &s, &c);
    store(cos + i, c * args.scale);
    store(sin + i, s * args.scale);
  }
}

// Pairs (i, i + pairs).
template <typename T>
void rotate_halves(const T* x, const float* cos, const float* sin, int64_t pairs, T* out) {
  int64_t i = 0;
  for (; i + kLanes <= pairs; i += kLanes) {
    const f32xW a = load_floats(x + i), b = load_floats(x + i + pairs);
    const f32xW c = load<f32xW>(cos + i), s = load<f32xW>(sin + i);
    store_floats(out + i, a * c - b * s);
    store_floats(out + i + pairs, a * s + b * c);
  }
  for (; i < pairs; ++i) {
    const float a = to_float(x[i]), b = to_float(x[i + pairs]);
    from_float(a * cos[i] - b * sin[i], out + i);
    from_float(a * sin[i] + b * cos[i], out + i + pairs);
  }
}

// Pairs (2i, 2i + 1).
template <typename T>
void rotate_neighbours(const T* x, const float* cos, const float* sin, int64_t pairs, T* out) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = to_float(x[2 * i]), b = to_float(x[2 * i + 1]);
    from_float(a * cos[i] - b * sin[i], out + 2 * i);
    from_float(a * sin[i] + b * cos[i], out + 2 * i + 1);
  }
}

}  // namespace

void rope(const RopeArgs& args, int64_t begin, int64_t end, float* scratch) {
  float *cos = scratch, *sin = scratch + args.pairs + 8;
  with_element(args.dtype, [&](auto element) {
    using T = decltype(element);
    for (int64_t token = begin; token < end; ++token) {
      angles(args, token, cos, sin);
      const T* in = static_cast<const T*>(args.tokens.data) + args.tokens.offset(token);
      T* out = static_cast<T*>(args.out) + token * args.heads * args.head_dim;
      for (int64_t head = 0; head < args.heads; ++head) {
        const auto rotate = args.interleaved ? rotate_neighbours<T> : rotate_halves<T>;
        rotate(in, cos, sin, args.pairs, out);
        for (int64_t i = 2 * args.pairs; i < args.head_dim; ++i) out[i] = in[i];
        in += args.head_stride;
        out += args.head_dim;
      }
    }
  });
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
