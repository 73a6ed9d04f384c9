// The packed layout (layout 1) of a quantized matrix: one plane per field of a block, each of them
// [blocks of the matrix, size], in the order of the fields. Nothing is added or lost. Types that
// are not in the table are the same in both layouts.
#pragma once

namespace rocmforge {

struct PackedField {
  int offset;  // in a block as the file has it
  int size;    // bytes
};

struct PackedLayout {
  static constexpr int kMaxFields = 5;
  int qtype;
  PackedField fields[kMaxFields];  // those after the last have size 0
};

inline constexpr PackedLayout kPackedLayouts[] = {
    {2, {{2, 16}, {0, 2}}},                                // Q4_0
    {3, {{4, 16}, {0, 4}}},                                // Q4_1
    {6, {{6, 16}, {2, 4}, {0, 2}}},                        // Q5_0
    {7, {{8, 16}, {4, 4}, {0, 4}}},                        // Q5_1
    {8, {{2, 32}, {0, 2}}},                                // Q8_0
    {9, {{4, 32}, {0, 4}}},                                // Q8_1
    {10, {{16, 64}, {0, 16}, {80, 4}}},                    // Q2_K
    {11, {{32, 64}, {0, 32}, {96, 12}, {108, 2}}},         // Q3_K
    {12, {{16, 128}, {4, 12}, {0, 4}}},                    // Q4_K
    {13, {{48, 128}, {16, 32}, {4, 12}, {0, 4}}},          // Q5_K
    {14, {{0, 128}, {128, 64}, {192, 16}, {208, 2}}},      // Q6_K
    {15, {{4, 256}, {260, 32}, {0, 4}}},                   // Q8_K
    {16, {{2, 64}, {0, 2}}},                               // IQ2_XXS
    {17, {{2, 64}, {66, 8}, {0, 2}}},                      // IQ2_XS
    {18, {{2, 64}, {66, 32}, {0, 2}}},                     // IQ3_XXS
    {19, {{2, 32}, {34, 16}, {0, 2}}},                     // IQ1_S
    {20, {{2, 16}, {0, 2}}},                               // IQ4_NL
    {21, {{2, 64}, {74, 32}, {66, 8}, {106, 4}, {0, 2}}},  // IQ3_S
    {22, {{2, 32}, {34, 32}, {66, 8}, {74, 8}, {0, 2}}},   // IQ2_S
    {23, {{8, 128}, {4, 4}, {0, 4}}},                      // IQ4_XS
    {29, {{0, 32}, {32, 16}, {48, 8}}},                    // IQ1_M
    {34, {{0, 32}, {32, 16}, {48, 4}, {52, 2}}},           // TQ1_0
    {35, {{0, 64}, {64, 2}}},                              // TQ2_0
    {39, {{1, 16}, {0, 1}}},                               // MXFP4
    {40, {{4, 32}, {0, 4}}},                               // NVFP4
    {41, {{2, 16}, {0, 2}}},                               // Q1_0
};

// The layout of a type, or null.
inline const PackedLayout* find_packed_layout(int qtype) {
  for (const PackedLayout& layout : kPackedLayouts) {
    if (layout.qtype == qtype) return &layout;
  }
  return nullptr;
}

}  // namespace rocmforge
