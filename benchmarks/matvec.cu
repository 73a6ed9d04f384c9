// One row times matrices of every quantized type, without torch: chains of a product in a graph.
//
//   nvcc -std=c++20 -O3 --expt-relaxed-constexpr -arch=sm_90a -DROCMFORGE_WARPGROUPS -I csrc
//        benchmarks/matvec.cu -o matvec && ./matvec [rows] [columns]
//
// Weights are random bytes under scales that are finite, over 512 MB of which a chain goes, so that
// no cache holds them. A line gives the median of a product's time, the bytes of weights over it,
// and a hash of the results: two builds that should give the same bits have the same.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "hip/matvec_kernel.h"

using namespace rocmforge::gpu;

namespace {

constexpr size_t kRotated = size_t{512} << 20;  // bytes

void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(status));
  std::exit(1);
}

__device__ uint32_t random_bits(uint32_t n) {
  n = (n ^ n >> 16) * 0x85ebca6bu;
  n = (n ^ n >> 13) * 0xc2b2ae35u;
  return n ^ n >> 16;
}

__global__ void fill_bytes(uint8_t* bytes, size_t count) {
  const size_t all = size_t{gridDim.x} * blockDim.x;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += all) {
    bytes[i] = static_cast<uint8_t>(random_bits(static_cast<uint32_t>(i)));
  }
}

// Byte `at` of every `stride`, the high byte of a float16: made that of a number below 1.
__global__ void tame(uint8_t* bytes, size_t count, int stride, int at) {
  const size_t all = size_t{gridDim.x} * blockDim.x;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += all) {
    uint8_t& byte = bytes[i * stride + at];
    byte = (byte & 0x8f) | 0x20;
  }
}

__global__ void fill_row(gpu_bfloat16* x, int cols) {
  const auto i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < cols) x[i] = __float2bfloat16((random_bits(i) & 0xffff) / 32768.0f - 1.0f);
}

template <class T>
void measure(const char* name, int rows, int cols) {
  const int row_bytes = cols / T::kBlock * T::kBytes;
  const size_t bytes = size_t(rows) * row_bytes, each = (bytes + 255) / 256 * 256;
  const int copies = static_cast<int>(std::max<size_t>(2, kRotated / each));
  uint8_t* weights = nullptr;
  gpu_bfloat16 *x = nullptr, *out = nullptr;
  check(cudaMalloc(&weights, each * copies));
  check(cudaMalloc(&x, cols * sizeof(*x)));
  check(cudaMalloc(&out, rows * sizeof(*out)));
  fill_bytes<<<1024, 256>>>(weights, each * copies);
  fill_row<<<(cols + 255) / 256, 256>>>(x, cols);
  // The last plane of the packed layout holds the scales: one or two float16, or four of which the
  // last has the high bits.
  constexpr int kScales = T::kFields[sizeof(T::kFields) / sizeof(Field) - 1].size;
  const size_t blocks = bytes / T::kBytes;
  for (int copy = 0; copy < copies; ++copy) {
    uint8_t* const scales = weights + copy * each + blocks * (T::kBytes - kScales);
    for (int at = kScales == 8 ? 7 : 1; at < kScales; at += 2) {
      tame<<<1024, 256>>>(scales, blocks, kScales, at);
    }
  }
  check(cudaDeviceSynchronize());

  cudaStream_t stream;
  check(cudaStreamCreate(&stream));
  const auto multiply = [&](int copy) {
    MatvecArgs args{};
    args.w = weights + copy * each, args.w_rows = rows, args.row_bytes = row_bytes;
    args.cols = cols, args.out_cols = rows;
    args.pairs = (rows + 1) / 2, args.pair_stride = 2, args.pair_offset = 1;
    args.x = x, args.out = out, args.dtype = args.bias_dtype = DType::kBFloat16;
    args.weights_at_rest = true;
    launch_view<T, PackedView<T>, 1>(args, nullptr, stream);
  };
  check(cudaMemset(out, 0xff, rows * sizeof(*out)));
  multiply(0);
  check(cudaStreamSynchronize(stream));
  std::vector<uint16_t> results(rows);
  check(cudaMemcpy(results.data(), out, rows * sizeof(*out), cudaMemcpyDeviceToHost));
  uint64_t hash = 1469598103934665603u;  // FNV-1a
  for (const uint16_t result : results) hash = (hash ^ result) * 1099511628211u;

  const int count = std::max(2 * copies, 64);
  cudaGraph_t graph;
  cudaGraphExec_t chain;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < count; ++i) multiply(i % copies);
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&chain, graph, 0));
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 18; ++i) {
    check(cudaEventRecord(begin, stream));
    check(cudaGraphLaunch(chain, stream));
    check(cudaEventRecord(end, stream));
    check(cudaStreamSynchronize(stream));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 3) times.push_back(milliseconds * 1000 / count);
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  const float us = times[times.size() / 2];
  std::printf("%-8s %dx%d  %7.2f us  %.2f TB/s  %016llx\n", name, rows, cols, us, bytes / us / 1e6,
              static_cast<unsigned long long>(hash));
  check(cudaGraphExecDestroy(chain));
  check(cudaGraphDestroy(graph));
  check(cudaStreamDestroy(stream));
  check(cudaFree(weights));
  check(cudaFree(x));
  check(cudaFree(out));
}

}  // namespace

int main(int argc, char** argv) {
  const int rows = argc > 1 ? std::atoi(argv[1]) : 28672;
  const int cols = argc > 2 ? std::atoi(argv[2]) : 4096;
  if (rows < 1 || cols < 256 || cols % 256 != 0) {
    std::fprintf(stderr, "usage: matvec [rows] [columns, a multiple of 256]\n");
    return 2;
  }
#define MEASURE(type) measure<type>(#type, rows, cols)
  MEASURE(Q4_0), MEASURE(Q4_1), MEASURE(Q5_0), MEASURE(Q5_1), MEASURE(Q8_0), MEASURE(Q1_0);
  MEASURE(Q2_K), MEASURE(Q3_K), MEASURE(Q4_K), MEASURE(Q5_K), MEASURE(Q6_K);
  MEASURE(IQ1_S), MEASURE(IQ1_M), MEASURE(IQ2_XXS), MEASURE(IQ2_XS), MEASURE(IQ2_S);
  MEASURE(IQ3_XXS), MEASURE(IQ3_S), MEASURE(IQ4_NL), MEASURE(IQ4_XS), MEASURE(TQ1_0),
      MEASURE(TQ2_0);
  return 0;
}
