// Enough of CUDA to run the kernels of csrc/ on a CPU: the threads of a block are fibers of one thread of the system.
//
// Fibers are picked at random and change places at barriers and, now and then, around atomics, so that an order which
// a barrier should have ruled out does happen. A launch fails as one on a device would (grid, block or shared memory
// out of range) and where a device would misbehave unseen: threads at different barriers, some gone while others wait,
// shared memory written past what was asked for, no device guard, another stream than the current one.
//
// To be included before the source (g++ -include).
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <tuple>
#include <vector>

#define __global__
#define __launch_bounds__(threads)
#define __shared__ thread_local
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __syncthreads() on_cpu::barrier(__LINE__)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration, cudaErrorLaunchFailure };

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline thread_local dim3 threadIdx, blockIdx, blockDim;

constexpr size_t kSharedBytes = 48 << 10;  // what a block gets without asking for more

// The kernels' `extern __shared__` array.
namespace dmpo {
namespace {
thread_local unsigned char shared[kSharedBytes + 64] __align__(16);
}
}  // namespace dmpo

namespace on_cpu {

inline char the_stream;
inline const cudaStream_t kCurrentStream = &the_stream;
constexpr unsigned char kUnwritten = 0xff;  // as floats NaN
inline int guards = 0;

struct Fiber {
  static constexpr size_t kStack = 64 << 10;
  enum { ready, waiting, gone } state = ready;
  int line = 0;  // of the barrier it waits at
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
};

inline ucontext_t scheduler;
inline Fiber* current;
inline std::function<void()> body;
inline std::mt19937 rng(0);

inline void leave() {
  swapcontext(&current->context, &scheduler);
}

inline void barrier(int line) {
  current->state = Fiber::waiting;
  current->line = line;
  leave();
}

inline void maybe_leave() {
  if (rng() % 8 == 0) leave();
}

inline void run_body() {
  body();
  current->state = Fiber::gone;
}

// Runs one block to its end; false where a device would hang or worse.
inline bool run_block(std::vector<Fiber>& fibers) {
  for (Fiber& fiber : fibers) {
    fiber.state = Fiber::ready;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = Fiber::kStack;
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, run_body, 0);
  }
  std::vector<Fiber*> runnable;
  for (;;) {
    runnable.clear();
    for (Fiber& fiber : fibers) {
      if (fiber.state == Fiber::ready) runnable.push_back(&fiber);
    }
    if (runnable.empty()) {
      const Fiber& first = fibers.front();
      for (const Fiber& fiber : fibers) {
        if (fiber.state != first.state || (fiber.state == Fiber::waiting && fiber.line != first.line)) return false;
      }
      if (first.state == Fiber::gone) return true;
      for (Fiber& fiber : fibers) fiber.state = Fiber::ready;
      continue;
    }
    std::shuffle(runnable.begin(), runnable.end(), rng);
    for (Fiber* fiber : runnable) {
      current = fiber;
      threadIdx.x = static_cast<unsigned>(fiber - fibers.data());
      swapcontext(&scheduler, &fiber->context);
    }
  }
}

inline cudaError_t launch(const cudaLaunchConfig_t& config) {
  if (guards == 0 || config.stream != kCurrentStream) return cudaErrorLaunchFailure;
  const unsigned threads = config.blockDim.x;
  if (config.gridDim.x == 0 || threads == 0 || threads > 1024 || config.dynamicSmemBytes > kSharedBytes) {
    return cudaErrorInvalidConfiguration;
  }
  blockDim = config.blockDim;
  std::vector<Fiber> fibers(threads);
  for (unsigned block = 0; block < config.gridDim.x; ++block) {
    blockIdx.x = block;
    std::memset(dmpo::shared, kUnwritten, sizeof dmpo::shared);
    if (!run_block(fibers)) return cudaErrorLaunchFailure;
    const auto written = [](unsigned char byte) { return byte != kUnwritten; };
    if (std::any_of(dmpo::shared + config.dynamicSmemBytes, std::end(dmpo::shared), written)) {
      return cudaErrorLaunchFailure;
    }
  }
  return cudaSuccess;
}

}  // namespace on_cpu

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  const std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  on_cpu::body = [&] { std::apply(kernel, values); };
  return on_cpu::launch(*config);
}

template <typename T>
T atomicAdd(T* address, T value) {
  on_cpu::maybe_leave();
  const T before = *address;
  *address = before + value;
  on_cpu::maybe_leave();
  return before;
}

template <typename T>
T atomicMin(T* address, T value) {
  on_cpu::maybe_leave();
  const T before = *address;
  *address = std::min(before, value);
  on_cpu::maybe_leave();
  return before;
}

inline const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorInvalidConfiguration ? "invalid configuration" : "the launch failed";
}

inline AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = on_cpu::kCurrentStream;
  return AOTI_TORCH_SUCCESS;
}

namespace torch::stable::accelerator {

struct CountedGuard {
  explicit CountedGuard(int32_t) {
    ++on_cpu::guards;
  }
  ~CountedGuard() {
    --on_cpu::guards;
  }
};

}  // namespace torch::stable::accelerator

#define DeviceGuard CountedGuard  // torch's own asks the driver
