#include "cpu/dispatch.h"

#include <cstdlib>
#include <cstring>

namespace rocmforge::cpu {
namespace {

struct Candidate {
  const char* name;
  const GlueKernels* glue;
  const QuantKernels* quant;
  bool (*supported)();
};

// Best first; the last one runs everywhere.
const Candidate kCandidates[] = {
#ifdef ROCMFORGE_HAS_AVX512
    {"avx512", &avx512::kGlue, &avx512::kQuant,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
     }},
#endif
#ifdef ROCMFORGE_HAS_AVX2
    {"avx2", &avx2::kGlue, &avx2::kQuant,
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("bmi2");
     }},
#endif
    {"portable", &portable::kGlue, &portable::kQuant, [] { return true; }},
};

const Candidate& choose() {
  const char* asked = std::getenv("ROCMFORGE_CPU_ISA");
  for (const Candidate& candidate : kCandidates) {
    if (asked && *asked && std::strcmp(asked, candidate.name) != 0) continue;
    if (candidate.supported()) return candidate;
  }
  // What was asked for is not to be had here: the portable kernels always are.
  return kCandidates[sizeof(kCandidates) / sizeof(kCandidates[0]) - 1];
}

const Candidate& chosen() {
  static const Candidate& candidate = choose();
  return candidate;
}

}  // namespace

const GlueKernels& glue_kernels() { return *chosen().glue; }

const QuantKernels& quant_kernels() { return *chosen().quant; }

const char* instruction_set() { return chosen().name; }

}  // namespace rocmforge::cpu
