#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/dispatch.h"
#include "hip/rotation.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;

struct RopeArgs {
  RowLayout x_tokens;
  int64_t head_stride;
  Rotation rotation;
  int64_t tokens, heads, head_dim;
};

// A block column (threadIdx.x) computes the angle of a pair once and turns it in several heads.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(RopeArgs args, const T* x, T* __restrict__ out) {
  follow_previous();
  const int64_t first_head = blockIdx.y * blockDim.y + threadIdx.y;
  const int64_t head_step = gridDim.y * blockDim.y;
  const Rotation& rotation = args.rotation;
  const int64_t pairs = rotation.pairs;
  for (int64_t token = blockIdx.x; token < args.tokens; token += gridDim.x) {
    const T* in = x + row_offset(args.x_tokens, token);
    T* to = out + token * args.heads * args.head_dim;
    const float position = position_of(rotation, token);
    for (int64_t i = threadIdx.x; i < pairs; i += blockDim.x) {
      const int64_t first = rotation.interleaved ? 2 * i : i;
      const int64_t second = rotation.interleaved ? first + 1 : i + pairs;
      const float2 turn = turn_of(rotation, position, i);
      for (int64_t head = first_head; head < args.heads; head += head_step) {
        const T* head_in = in + head * args.head_stride;
        T* head_out = to + head * args.head_dim;
        const float a = to_float(head_in[first]), b = to_float(head_in[second]);
        head_out[first] = from_float<T>(turned_first(a, b, turn));
        head_out[second] = from_float<T>(turned_second(a, b, turn));
      }
    }
    for (int64_t i = 2 * pairs + threadIdx.x; i < args.head_dim; i += blockDim.x) {
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
  const Rotation rotation = {long_positions, positions,   num_positions, inv_freq,
                             pairs,          interleaved, scale};
  const RopeArgs args = {*x_tokens, head_stride, rotation, tokens, heads, head_dim};
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
    launch_early(rope_kernel<T>, grid, block, 0, static_cast<gpuStream_t>(stream), args,
                 static_cast<const T*>(x), static_cast<T*>(out));
  });
  return launch_status();
}

}  // namespace rocmforge::gpu
