// The types that have GPU kernels: one row each, by family.
#pragma once

#include <type_traits>

#include "hip/quants/float4.h"
#include "hip/quants/i_quants.h"
#include "hip/quants/k_quants.h"
#include "hip/quants/simple.h"
#include "hip/quants/tables.h"
#include "hip/quants/ternary.h"

namespace rocmforge::gpu {

template <class... Types>
struct TypeList {};

using SimpleQuants = TypeList<Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, Q8_K, Q1_0>;
using KQuants = TypeList<Q2_K, Q3_K, Q4_K, Q5_K, Q6_K>;
using GridQuants = TypeList<IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S>;
using SmallQuants = TypeList<IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, MXFP4, NVFP4>;

template <class... A, class... B, class... C, class... D>
TypeList<A..., B..., C..., D...> join(TypeList<A...>, TypeList<B...>, TypeList<C...>,
                                      TypeList<D...>);
using AllQuants = decltype(join(SimpleQuants{}, KQuants{}, GridQuants{}, SmallQuants{}));

// Calls body(T{}) with the trait of GGML type `qtype`; false if none of the list is it.
template <class... Types, typename Body>
bool with_type_of(TypeList<Types...>, int qtype, Body body) {
  static_assert((fields_are_complete<Types>() && ...));
  return ((Types::kType == qtype && (body(Types{}), true)) || ...);
}

template <class T>
constexpr int kSteps = T::kBlock / (16 * T::kGroups);  // of a block

}  // namespace rocmforge::gpu
