#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/dispatch.h"
#include "hip/rope.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;

struct RopeArgs {
  RowLayout x_tokens;
  int64_t head_stride;
  bool long_positions;
  const void* positions;
  int64_t num_positions;
  const float* inv_freq;
  int64_t pairs;
  bool interleaved;
  float scale;
  int64_t tokens, heads, head_dim;
};

// sin and cos of float32 angles of any size: reduced to [-pi/4, pi/4] in float64, then Taylor.
__device__ __forceinline__ void sin_cos(float angle, float* sin, float* cos) {
  const double n = rint(angle * 0.63661977236758134);
  // pi / 2 in two parts.
  const double reduced = fma(-n, 6.123233995736766e-17, fma(-n, 1.5707963267948966, angle));
  const float r = static_cast<float>(reduced), r2 = r * r;
  float s = 1.0f / 362880;
  s = fmaf(s, r2, -1.0f / 5040);
  s = fmaf(s, r2, 1.0f / 120);
  s = fmaf(s, r2, -1.0f / 6);
  s = fmaf(s * r2, r, r);
  float c = -1.0f / 3628800;
  c = fmaf(c, r2, 1.0f / 40320);
  c = fmaf(c, r2, -1.0f / 720);
  c = fmaf(c, r2, 1.0f / 24);
  c = fmaf(c, r2, -0.5f);
  c = fmaf(c, r2, 1.0f);
  const int quadrant = static_cast<int>(static_cast<int64_t>(n) & 3);
  const float swapped_sin = quadrant & 1 ? c : s, swapped_cos = quadrant & 1 ? s : c;
  *sin = quadrant & 2 ? -swapped_sin : swapped_sin;
  *cos = (quadrant + 1) & 2 ? -swapped_cos : swapped_cos;
}

__device__ __forceinline__ float position_of(const RopeArgs& args, int64_t token) {
  const int64_t i = token < args.num_positions ? token : token % args.num_positions;
  return args.long_positions ? static_cast<float>(static_cast<const int64_t*>(args.positions)[i])
                             : static_cast<float>(static_cast<const int32_t*>(args.positions)[i]);
}

// A block column (threadIdx.x) computes the angle of a pair once and turns it in several heads.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(RopeArgs args, const T* __restrict__ x, T* __restrict__ out) {
  const int64_t first_head = blockIdx.y * blockDim.y + threadIdx.y;
  const int64_t head_step = gridDim.y * blockDim.y;
  const int64_t rotated = 2 * args.pairs;
  for (int64_t token = blockIdx.x; token < args.tokens; token += gridDim.x) {
    const T* in = x + row_offset(args.x_tokens, token);
    T* to = out + token * args.heads * args.head_dim;
    const float position = position_of(args, token);
    for (int64_t i = threadIdx.x; i < args.pairs; i += blockDim.x) {
      const int64_t first = args.interleaved ? 2 * i : i;
      const int64_t second = args.interleaved ? first + 1 : i + args.pairs;
      float sin, cos;
      sin_cos(position * args.inv_freq[i], &sin, &cos);
      sin *= args.scale;
      cos *= args.scale;
      for (int64_t head = first_head; head < args.heads; head += head_step) {
        const T* head_in = in + head * args.head_stride;
        T* head_out = to + head * args.head_dim;
        const float a = to_float(head_in[first]), b = to_float(head_in[second]);
        head_out[first] = from_float<T>(a * cos - b * sin);
        head_out[second] = from_float<T>(a * sin + b * cos);
      }
    }
    for (int64_t i = rotated + threadIdx.x; i < args.head_dim; i += blockDim.x) {
      for (int64_t head = first_head; head < args.heads; head += head_step) {
        to[head * args.head_dim + i] = in[head * args.head_stride + i];
      }
    }
  }
}

}  // namespace

Status rope(DType dtype, const void* x, const RowLayout* x_tokens, int64_t head_stride,
            bool long_positions, const void* positions, int64_t num_positions,
            const float* inv_freq, int64_t pairs, bool interleaved, float scale, void* out,
            int64_t tokens, int64_t heads, int64_t head_dim, Stream stream) {
  if (tokens == 0 || heads == 0 || head_dim == 0) return nullptr;
  const RopeArgs args = {*x_tokens,     head_stride, long_positions, positions,
                         num_positions, inv_freq,    pairs,          interleaved,
                         scale,         tokens,      heads,          head_dim};
  unsigned columns = 32;
  while (columns < pairs && columns < kThreads) columns *= 2;
  const dim3 block(columns, kThreads / columns);
  // With few tokens the heads are spread over more blocks; with many an angle serves more heads.
  constexpr int64_t kManyTokens = 256, kMostParts = 16;
  const int64_t parts = (heads + block.y - 1) / block.y;
  const int64_t spread = tokens >= kManyTokens ? 1 : parts < kMostParts ? parts : kMostParts;
  const dim3 grid(grid_size(tokens), static_cast<unsigned>(spread));
  with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    rope_kernel<T><<<grid, block, 0, static_cast<gpuStream_t>(stream)>>>(
        args, static_cast<const T*>(x), static_cast<T*>(out));
  });
  return launch_status();
}

}  // namespace rocmforge::gpu
