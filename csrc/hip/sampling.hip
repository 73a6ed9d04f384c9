// Four kernels per call, for rows of any parameters: the maximum of every row; a histogram of the
// filtered rows, and the choice in the others; the candidates that the histogram cannot rule out;
// and on one block per row the exact cut among these and the choice.
#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/dispatch.h"
#include "hip/sampling.h"
#include "hip/sampling_math.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;         // of a part of a row
constexpr int kChooseThreads = 1024;  // of a row's candidates
constexpr int kPartSize = 4096;       // logits of a part, unless there were too many parts
constexpr int kMaxParts = 128;
constexpr int kBins = 1024;
constexpr int kDigitBits = 10;  // of the keys, for the exact cut
static_assert(kBins == 1 << kDigitBits);
constexpr float kBinsPerUnit = 32.0f;

int parts_of(int64_t vocab) {
  const int64_t parts = (vocab + kPartSize - 1) / kPartSize;
  return static_cast<int>(parts < kMaxParts ? parts : kMaxParts);
}

// The workspace of one row.
struct RowSpace {
  Word* best;        // [parts]: key of the first maximum of each
  Choice* choices;   // [parts]
  Word* bins;        // [kBins]
  Word* count;       // [1]: of candidates
  Word* candidates;  // [vocab]: keys

  static int64_t words(int parts, int64_t vocab) {
    return (3 * int64_t{parts} + kBins + 1 + vocab + 1) / 2 * 2;
  }
  __device__ __forceinline__ RowSpace(Word* space, int parts)
      : best(space),
        choices(reinterpret_cast<Choice*>(space + parts)),
        bins(space + 3 * parts),
        count(bins + kBins),
        candidates(count + 1) {}
};

struct SampleArgs {
  SampleParams params;
  Word* space;
  int64_t space_words;  // of a row
  int parts;
  int64_t part_size;
  int64_t stride, vocab;
  int64_t first_row;    // of the grid
  double weight_scale;  // of softmax_weight
};

// How a row is filtered.
struct Filters {
  bool greedy, top_k, top_p;
  bool min_p;
  double least;  // logit - maximum, for min_p

  __device__ __forceinline__ Filters(const SampleArgs& args, int64_t row, float maximum) {
    const int64_t k = args.params.top_k[row];
    const auto floor = static_cast<double>(args.params.min_p[row]);
    greedy = !(args.params.temperature[row] > 0.0f) || isinf(maximum);
    top_k = k > 0 && k < args.vocab;
    top_p = !(args.params.top_p[row] >= 1.0f);
    min_p = !(floor <= 0.0);
    least = min_p ? log(floor) : 0.0;
  }
  __device__ __forceinline__ bool needs_cut() const { return !greedy && (top_k || top_p); }
  __device__ __forceinline__ bool survives(float logit, float maximum) const {
    return !min_p || static_cast<double>(logit) - static_cast<double>(maximum) >= least;
  }
};

template <typename T>
__device__ __forceinline__ float logit_at(const T* row, int64_t i) {
  const float logit = to_float(row[i]);
  return isnan(logit) ? -INFINITY : logit;
}

// Calls f(logit, id) for this thread's share of a part.
template <typename T, typename F>
__device__ __forceinline__ void for_each_in_part(const SampleArgs& args, const T* row, F f) {
  const int64_t begin = blockIdx.x * args.part_size;
  const int64_t end = min(begin + args.part_size, args.vocab);
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    f(logit_at(row, i), static_cast<uint32_t>(i));
  }
}

__device__ __forceinline__ Word larger(Word a, Word b) { return a > b ? a : b; }
__device__ __forceinline__ Choice larger(const Choice& a, const Choice& b) {
  return b.before(a) ? b : a;
}
__device__ __forceinline__ Word shuffled(Word value, int mask) {
  return wave_shuffle_xor(value, mask);
}
__device__ __forceinline__ Choice shuffled(const Choice& value, int mask) {
  return {wave_shuffle_xor(value.score, mask), wave_shuffle_xor(value.key, mask)};
}

// Every thread gets the largest of the block's values.
template <int kCount, typename T>
__device__ __forceinline__ T block_largest(T value) {
  constexpr int kWaves = kCount / kWaveSize;
  __shared__ T partial[kWaves];
#pragma unroll
  for (int mask = kWaveSize / 2; mask > 0; mask /= 2) {
    value = larger(value, shuffled(value, mask));
  }
  if (threadIdx.x % kWaveSize == 0) partial[threadIdx.x / kWaveSize] = value;
  __syncthreads();
  value = partial[0];
#pragma unroll
  for (int wave = 1; wave < kWaves; ++wave) value = larger(value, partial[wave]);
  __syncthreads();
  return value;
}

// The key of a row's first maximum, on every thread; there are at most kThreads parts.
template <int kCount>
__device__ __forceinline__ Word row_maximum(const SampleArgs& args, const RowSpace& space) {
  static_assert(kMaxParts <= kThreads);
  return block_largest<kCount>(static_cast<int>(threadIdx.x) < args.parts ? space.best[threadIdx.x]
                                                                          : Word{0});
}

struct Crossing {
  int bin;
  Word ahead;  // sum of the bins before
};

// The first bin with which the sum of `bins` reaches `limit`, else the last one. The sums must not
// exceed 64 bits. `bins` has kBins entries in LDS or global memory.
template <int kCount>
__device__ __forceinline__ Crossing find_crossing(const Word* bins, Word limit) {
  constexpr int kOwn = kBins / kCount;
  __shared__ Word sums[kCount];
  __shared__ Crossing found;
  const int thread = threadIdx.x;
  Word own = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) own += bins[thread * kOwn + i];
  sums[thread] = own;
  __syncthreads();
  Word sum = own;  // of this and all earlier threads
  for (int distance = 1; distance < kCount; distance *= 2) {
    const Word before = thread >= distance ? sums[thread - distance] : 0;
    __syncthreads();
    sum += before;
    sums[thread] = sum;
    __syncthreads();
  }
  Word ahead = sum - own;
  const bool is_last = thread == kCount - 1;
  if (ahead < limit || thread == 0) {
    if (sum >= limit || is_last) {
      int bin = thread * kOwn;
      for (int i = 0; i < kOwn - 1 && ahead + bins[bin] < limit; ++i) ahead += bins[bin++];
      found = {bin, ahead};
    }
  }
  __syncthreads();
  const Crossing result = found;
  __syncthreads();
  return result;
}

// Sum of all bins, on every thread.
template <int kCount>
__device__ __forceinline__ Word sum_bins(const Word* bins) {
  __shared__ Word total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  Word own = 0;
  for (int i = threadIdx.x; i < kBins; i += kCount) own += bins[i];
  if (own) atomicAdd(&total, own);
  __syncthreads();
  const Word result = total;
  __syncthreads();
  return result;
}

// A token is kept while what is ahead of it weighs less than this.
__device__ __forceinline__ Word top_p_limit(float top_p, Word total) {
  const double limit = static_cast<double>(top_p) * static_cast<double>(total);
  return limit > 0.0 ? static_cast<Word>(ceil(limit)) : 0;
}

__device__ __forceinline__ int bin_of(float logit, float maximum) {
  const float distance = (maximum - logit) * kBinsPerUnit;
  return distance < kBins - 1 ? static_cast<int>(distance) : kBins - 1;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) maximum_kernel(SampleArgs args, const T* logits) {
  follow_previous();
  const int64_t row = args.first_row + blockIdx.y;
  const RowSpace space(args.space + row * args.space_words, args.parts);
  Word best = 0;
  for_each_in_part(args, logits + row * args.stride,
                   [&](float logit, uint32_t id) { best = larger(best, sort_key(logit, id)); });
  best = block_largest<kThreads>(best);
  if (threadIdx.x == 0) space.best[blockIdx.x] = best;
  for (int i = blockIdx.x * kThreads + threadIdx.x; i < kBins; i += gridDim.x * kThreads) {
    space.bins[i] = 0;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *space.count = 0;
}

__device__ __forceinline__ Chooser chooser_of(const SampleArgs& args, int64_t row, Word maximum) {
  return Chooser(args.params.temperature[row], static_cast<Word>(args.params.seed[row]),
                 static_cast<Word>(args.params.step[row]), maximum);
}

// With top-k, how many tokens a bin holds; with top-p alone, what they weigh. Rows without either
// are chosen from at once.
template <typename T>
__global__ void __launch_bounds__(kThreads) histogram_kernel(SampleArgs args, const T* logits) {
  follow_previous();
  const int64_t row = args.first_row + blockIdx.y;
  const T* values = logits + row * args.stride;
  const RowSpace space(args.space + row * args.space_words, args.parts);
  const Word first = row_maximum<kThreads>(args, space);
  const float maximum = key_logit(first);
  const Filters filters(args, row, maximum);
  if (filters.greedy) return;
  if (!filters.needs_cut()) {
    Chooser chooser = chooser_of(args, row, first);
    for_each_in_part(args, values, [&](float logit, uint32_t id) {
      if (filters.survives(logit, maximum)) chooser.visit(sort_key(logit, id));
    });
    const Choice choice = block_largest<kThreads>(chooser.best);
    if (threadIdx.x == 0) space.choices[blockIdx.x] = choice;
    return;
  }
  __shared__ Word bins[kBins];
  for (int i = threadIdx.x; i < kBins; i += kThreads) bins[i] = 0;
  __syncthreads();
  for_each_in_part(args, values, [&](float logit, uint32_t) {
    const Word mass = filters.top_k ? 1 : softmax_weight(logit, maximum, args.weight_scale);
    if (mass) atomicAdd(&bins[bin_of(logit, maximum)], mass);
  });
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kThreads) {
    if (bins[i]) atomicAdd(&space.bins[i], bins[i]);
  }
}

// Keys of all tokens up to the bin in which the limit is reached, in no particular order.
template <typename T>
__global__ void __launch_bounds__(kThreads) gather_kernel(SampleArgs args, const T* logits) {
  follow_previous();
  const int64_t row = args.first_row + blockIdx.y;
  const T* values = logits + row * args.stride;
  const RowSpace space(args.space + row * args.space_words, args.parts);
  const float maximum = key_logit(row_maximum<kThreads>(args, space));
  const Filters filters(args, row, maximum);
  if (!filters.needs_cut()) return;
  const Word limit = filters.top_k
                         ? static_cast<Word>(args.params.top_k[row])
                         : top_p_limit(args.params.top_p[row], sum_bins<kThreads>(space.bins));
  const int last = find_crossing<kThreads>(space.bins, limit).bin;
  Word own = 0;
  for_each_in_part(args, values,
                   [&](float logit, uint32_t) { own += bin_of(logit, maximum) <= last; });
  __shared__ Word block_count, block_begin;
  if (threadIdx.x == 0) block_count = 0;
  __syncthreads();
  Word place = own ? atomicAdd(&block_count, own) : 0;
  __syncthreads();
  if (threadIdx.x == 0) block_begin = block_count ? atomicAdd(space.count, block_count) : 0;
  __syncthreads();
  place += block_begin;
  for_each_in_part(args, values, [&](float logit, uint32_t id) {
    if (bin_of(logit, maximum) <= last) space.candidates[place++] = sort_key(logit, id);
  });
}

// LDS of a search for a cut.
struct CutSpace {
  Word bins[kBins];
  union {
    Word masses[kBins];
    unsigned sizes[kBins];
  };
};

// As many candidates are ranked one by one, a thread for each: fewer steps than by digits.
constexpr int kMostRanked = 512;
static_assert(kMostRanked <= kBins && kMostRanked <= kChooseThreads);

// find_cut of at most kMostRanked candidates.
template <typename Mass>
__device__ __forceinline__ Word rank_cut(const Word* candidates, int count, Word least,
                                         Word largest, Word limit, Mass mass, CutSpace& space) {
  const int thread = threadIdx.x;
  const Word key = thread < count ? candidates[thread] : 0;
  const bool counts = thread < count && key >= least;
  if (thread < count) space.bins[thread] = key, space.masses[thread] = counts ? mass(key) : 0;
  __syncthreads();
  Word ahead = 0;
  for (int i = 0; counts && i < count; ++i) ahead += space.bins[i] > key ? space.masses[i] : 0;
  const bool kept = counts && (ahead < limit || key == largest);
  return ~block_largest<kChooseThreads>(kept ? ~key : 0);
}

// The smallest key of the head of the candidates, taken in descending order from those not below
// `least`, in which every one has less than `limit` ahead of it, counting mass(key). A radix
// selection, where they are many: digit by digit, the bin in which the limit is reached.
template <typename Mass>
__device__ __forceinline__ Word find_cut(const Word* candidates, int64_t count, Word least,
                                         Word largest, Word limit, Mass mass, CutSpace& space) {
  if (count <= kMostRanked) {
    return rank_cut(candidates, static_cast<int>(count), least, largest, limit, mass, space);
  }
  Word* const bins = space.bins;
  unsigned* const sizes = space.sizes;
  // The bits in which the candidates differ.
  Word smallest = largest;
  for (int64_t i = threadIdx.x; i < count; i += kChooseThreads) {
    const Word key = candidates[i];
    if (key >= least && key < smallest) smallest = key;
  }
  smallest = ~block_largest<kChooseThreads>(~smallest);
  int shift = smallest == largest ? 0 : 64 - __clzll(static_cast<long long>(smallest ^ largest));
  Word prefix = shift < 64 ? largest >> shift << shift : 0;
  while (shift > 0) {
    const int bits = shift < kDigitBits ? shift : kDigitBits;
    const Word known = shift < 64 ? ~Word{0} << shift : 0;
    shift -= bits;
    for (int i = threadIdx.x; i < kBins; i += kChooseThreads) bins[i] = sizes[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < count; i += kChooseThreads) {
      const Word key = candidates[i];
      if (key < least || (key & known) != prefix) continue;
      const int bin = kBins - 1 - static_cast<int>(key >> shift & (kBins - 1) & ((1 << bits) - 1));
      const Word weight = mass(key);
      if (weight) atomicAdd(&bins[bin], weight);
      atomicAdd(&sizes[bin], 1u);
    }
    __syncthreads();
    const Crossing crossing = find_crossing<kChooseThreads>(bins, limit);
    limit -= crossing.ahead;
    prefix |= static_cast<Word>(kBins - 1 - crossing.bin) << shift;
    // One token: every key with this prefix or above is kept, and there is none between.
    const bool is_exact = sizes[crossing.bin] == 1;
    __syncthreads();
    if (is_exact) break;
  }
  return prefix;
}

__global__ void __launch_bounds__(kChooseThreads) choose_kernel(SampleArgs args, int64_t* ids) {
  follow_previous();
  const int64_t row = args.first_row + blockIdx.x;
  const RowSpace space(args.space + row * args.space_words, args.parts);
  const Word first = row_maximum<kChooseThreads>(args, space);
  const float maximum = key_logit(first);
  const Filters filters(args, row, maximum);
  if (filters.greedy) {
    if (threadIdx.x == 0) ids[row] = key_id(first);
    return;
  }
  __shared__ CutSpace cut_space;
  Chooser chooser = chooser_of(args, row, first);
  if (!filters.needs_cut()) {
    if (static_cast<int>(threadIdx.x) < args.parts) chooser.best = space.choices[threadIdx.x];
  } else {
    const auto count = static_cast<int64_t>(*space.count);
    Word least = 0;
    if (filters.top_k) {
      least = find_cut(
          space.candidates, count, 0, first, static_cast<Word>(args.params.top_k[row]),
          [](Word) { return Word{1}; }, cut_space);
    }
    if (filters.top_p) {
      const auto weight = [&](Word key) {
        return softmax_weight(key_logit(key), maximum, args.weight_scale);
      };
      __shared__ Word kept;
      if (threadIdx.x == 0) kept = 0;
      __syncthreads();
      Word own = 0;
      if (filters.top_k) {
        for (int64_t i = threadIdx.x; i < count; i += kChooseThreads) {
          if (space.candidates[i] >= least) own += weight(space.candidates[i]);
        }
      } else {
        for (int i = threadIdx.x; i < kBins; i += kChooseThreads) own += space.bins[i];
      }
      if (own) atomicAdd(&kept, own);
      __syncthreads();
      const Word limit = top_p_limit(args.params.top_p[row], kept);
      least =
          larger(least, find_cut(space.candidates, count, least, first, limit, weight, cut_space));
    }
    for (int64_t i = threadIdx.x; i < count; i += kChooseThreads) {
      const Word key = space.candidates[i];
      if (key >= least && filters.survives(key_logit(key), maximum)) chooser.visit(key);
    }
  }
  const Choice choice = block_largest<kChooseThreads>(chooser.best);
  if (threadIdx.x == 0) ids[row] = key_id(choice.key);
}

}  // namespace

int64_t sample_workspace_bytes(int64_t batch, int64_t vocab) {
  return batch * RowSpace::words(parts_of(vocab), vocab) * static_cast<int64_t>(sizeof(Word));
}

Status sample(DType dtype, const void* logits, int64_t stride, const SampleParams* params,
              void* workspace, int64_t* ids, int64_t batch, int64_t vocab, Stream stream) {
  if (batch == 0 || vocab == 0) return nullptr;
  const int parts = parts_of(vocab);
  const auto launch_stream = static_cast<gpuStream_t>(stream);
  constexpr int64_t kMostRows = 65535;  // of a grid
  for (int64_t row = 0; row < batch; row += kMostRows) {
    const SampleArgs args = {*params,
                             static_cast<Word*>(workspace),
                             RowSpace::words(parts, vocab),
                             parts,
                             (vocab + parts - 1) / parts,
                             stride,
                             vocab,
                             row,
                             softmax_weight_scale(vocab)};
    const auto rows = static_cast<unsigned>(batch - row < kMostRows ? batch - row : kMostRows);
    const dim3 grid(static_cast<unsigned>(parts), rows);
    with_dtype(dtype, [&](auto element) {
      using T = decltype(element);
      const T* values = static_cast<const T*>(logits);
      launch_early(maximum_kernel<T>, grid, kThreads, 0, launch_stream, args, values);
      launch_early(histogram_kernel<T>, grid, kThreads, 0, launch_stream, args, values);
      launch_early(gather_kernel<T>, grid, kThreads, 0, launch_stream, args, values);
      launch_early(choose_kernel, rows, kChooseThreads, 0, launch_stream, args, ids);
    });
  }
  return launch_status();
}

}  // namespace rocmforge::gpu
