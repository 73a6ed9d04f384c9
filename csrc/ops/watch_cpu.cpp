// Whether Python's dictionaries and tensors are what they were: graphs/watch.py asks before every
// token, and Python's own comparisons take five times as long.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstddef>
#include <cstdint>

// PyDict_Next, handed in: the library itself holds no symbol of Python's.
using NextEntry = int (*)(void* dictionary, std::ptrdiff_t* position, void** key, void** value);

// A picture that was taken; its layout is that of `_Picture` in graphs/watch.py.
struct Picture {
  NextEntry next;
  int64_t table_count;
  void* const* tables;   // dictionaries
  void* const* entries;  // of each, keys and values in turn, then null
  int64_t tensor_count;
  void** tensors;          // what a Tensor of C++ is made of: one pointer to its TensorImpl
  void* const* addresses;  // of their first elements
};

static bool same_tables(const Picture& was) {
  void* const* expected = was.entries;
  for (int64_t i = 0; i < was.table_count; ++i) {
    std::ptrdiff_t position = 0;
    void* key;
    void* value;
    while (was.next(was.tables[i], &position, &key, &value)) {
      if (expected[0] != key || expected[1] != value) return false;
      expected += 2;
    }
    if (*expected++ != nullptr) return false;
  }
  return true;
}

static bool same_addresses(const Picture& was) {
  for (int64_t i = 0; i < was.tensor_count; ++i) {
    auto tensor = reinterpret_cast<AtenTensorHandle>(&was.tensors[i]);
    void* address = nullptr;
    if (aoti_torch_get_data_ptr(tensor, &address) != AOTI_TORCH_SUCCESS) return false;
    if (address != was.addresses[i]) return false;
  }
  return true;
}

// Whoever calls it holds Python's lock.
extern "C" __attribute__((visibility("default"))) int rocmforge_unchanged(const Picture* was) {
  return same_tables(*was) && same_addresses(*was);
}
