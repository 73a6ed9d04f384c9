#include <atomic>

#include "ops/product_limits.h"

namespace rocmforge {
namespace {

constexpr int kDevices = 128, kTypes = 64;  // more than torch counts, and than GGML has numbers

// Three numbers in one word, so that nobody reads a part of another's.
constexpr uint64_t packed(const ProductLimits& limits) {
  return static_cast<uint64_t>(limits.matvec) << 48 | static_cast<uint64_t>(limits.multirow) << 32 |
         static_cast<uint64_t>(limits.tile);
}
static_assert(kMostRows.matvec >> 16 == 0 && kMostRows.multirow >> 16 == 0);
static_assert(kMostRows.tile >> 32 == 0);

constexpr uint64_t kDefault = packed(kDefaultLimits);

// Each word xor kDefault: memory that nobody has written to holds the defaults.
std::atomic<uint64_t> table[kDevices][kTypes];

bool has_place(int device, int qtype) {
  return device >= 0 && device < kDevices && qtype >= 0 && qtype < kTypes;
}

}  // namespace

ProductLimits product_limits(int device, int qtype) {
  if (!has_place(device, qtype)) return kDefaultLimits;
  const uint64_t word = table[device][qtype].load(std::memory_order_relaxed) ^ kDefault;
  return {static_cast<int64_t>(word >> 48), static_cast<int64_t>(word >> 32 & 0xffff),
          static_cast<int64_t>(word & 0xffffffff)};
}

bool set_product_limits(int device, int qtype, const ProductLimits& limits) {
  const bool rises =
      0 <= limits.matvec && limits.matvec <= limits.multirow && limits.multirow <= limits.tile;
  const bool possible = limits.matvec <= kMostRows.matvec &&
                        limits.multirow <= kMostRows.multirow && limits.tile <= kMostRows.tile;
  if (!has_place(device, qtype) || !rises || !possible) return false;
  table[device][qtype].store(packed(limits) ^ kDefault, std::memory_order_relaxed);
  return true;
}

}  // namespace rocmforge
