// The types of one family each (quants/table.h), which are compiled apart.
#pragma once

#include "hip/matvec.h"

namespace rocmforge::gpu {

// matvec, or matvec_gated if `gated`; norm may be null.
Status matvec_simple(const MatvecCall& call, bool gated, Activation act, const InputNorm* norm);
Status matvec_k(const MatvecCall& call, bool gated, Activation act, const InputNorm* norm);
Status matvec_grid(const MatvecCall& call, bool gated, Activation act, const InputNorm* norm);
Status matvec_small(const MatvecCall& call, bool gated, Activation act, const InputNorm* norm);

}  // namespace rocmforge::gpu
