// Runs the blocks of a grid one after the other, the threads of a block as fibers.
#include "host_cuda.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>

namespace host_cuda {

Thread* current;
uint3 block_index;
dim3 block_size, grid_size;

namespace {

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  ucontext_t context;
  Thread thread;
  State state;
};

constexpr size_t kStackBytes = 512 << 10;
std::vector<void*> stacks;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<uint8_t> lds;
ucontext_t scheduler;
Fiber* running;
int alive, waiting;  // of the block
const std::function<void()>* work;

// Memory that kernels write which may still run: poison until somebody has waited for them.
struct Late {
  uint8_t* at;
  std::vector<uint8_t> late, values;
};
std::vector<Late> late_memory;
bool followed;

void wake(State state, const Warp* warp) {
  for (Fiber& fiber : fibers) {
    if (fiber.state == state && (!warp || fiber.thread.warp == warp)) fiber.state = State::kReady;
  }
}
void wake_if_all_are_there(Warp* warp) {
  if (alive > 0 && waiting == alive) {
    waiting = 0;
    wake(State::kAtBlock, nullptr);
  }
  if (warp->alive > 0 && warp->waiting == warp->alive) {
    warp->waiting = 0;
    wake(State::kAtWarp, warp);
  }
}
void wait_at(State state) {
  Fiber* const own = running;
  own->state = state;
  wake_if_all_are_there(own->thread.warp);
  if (own->state != State::kReady) swapcontext(&own->context, &scheduler);
}

void thread_main() {
  (*work)();
  await_all();
  running->state = State::kDone;
  --alive, --running->thread.warp->alive;
  wake_if_all_are_there(running->thread.warp);
  swapcontext(&running->context, &scheduler);
}

void start_block(int threads) {
  std::memset(lds.data(), 0xff, lds.size());
  followed = false;
  for (Late& memory : late_memory) {
    for (size_t i = 0; i < memory.late.size(); ++i) {
      if (memory.late[i]) memory.at[i] = 0xff;
    }
  }
  alive = threads, waiting = 0;
  warps.assign((threads + kLanes - 1) / kLanes, Warp{});
  fibers = std::vector<Fiber>(threads);
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    const auto index = static_cast<unsigned>(i);
    fiber.thread.index = {index % block_size.x, index / block_size.x % block_size.y,
                          index / (block_size.x * block_size.y)};
    fiber.thread.lane = i % kLanes, fiber.thread.warp = &warps[i / kLanes];
    ++fiber.thread.warp->alive;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks[i], fiber.context.uc_stack.ss_size = kStackBytes;
    makecontext(&fiber.context, thread_main, 0);
  }
}

// Warps take turns in an order that changes from round to round.
void run_block(int threads) {
  start_block(threads);
  unsigned random = block_index.x * 2654435761u + block_index.y;
  while (alive > 0) {
    bool any = false;
    random = random * 1664525u + 1013904223u;
    const int first = static_cast<int>((random >> 16) % warps.size()) * kLanes;
    for (int i = 0; i < threads; ++i) {
      Fiber& fiber = fibers[(first + i) % threads];
      if (fiber.state != State::kReady) continue;
      any = true;
      running = &fiber, current = &fiber.thread;
      swapcontext(&scheduler, &fiber.context);
    }
    if (!any) {
      std::fprintf(stderr, "threads of block %u wait for each other for ever\n", block_index.x);
      std::abort();
    }
  }
}

}  // namespace

void meet_block() {
  ++waiting;
  wait_at(State::kAtBlock);
}
void meet_warp() {
  ++current->warp->waiting;
  wait_at(State::kAtWarp);
}

void* dynamic_lds() {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(lds.data()) + 1023) / 1024 * 1024);
}

void follow_previous() {
  if (followed) return;
  followed = true;
  for (Late& memory : late_memory) {
    for (size_t i = 0; i < memory.late.size(); ++i) {
      if (memory.late[i]) memory.at[i] = memory.values[i];
    }
  }
}

void run(dim3 grid, dim3 block, int lds_bytes, const std::function<void()>& kernel) {
  if (lds_bytes > kLdsBytes) std::abort();
  const int threads = static_cast<int>(block.x * block.y * block.z);
  grid_size = grid, block_size = block, work = &kernel;
  lds.resize(lds_bytes + 2048);
  while (static_cast<int>(stacks.size()) < threads) {
    stacks.push_back(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = {x, y, z};
        run_block(threads);
      }
    }
  }
}

}  // namespace host_cuda

// Bytes at[i] for which late[i] is not zero come from kernels that may still run; forget_late takes
// that back.
extern "C" void simulate_late(uint8_t* at, const uint8_t* late, int64_t bytes) {
  host_cuda::late_memory.push_back({at, {late, late + bytes}, {at, at + bytes}});
}
extern "C" void forget_late() {
  host_cuda::followed = false;
  host_cuda::follow_previous();
  host_cuda::late_memory.clear();
}
