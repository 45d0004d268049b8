// remask_ and revoke_ on CUDA tensors: one block a row, in which every candidate counts the candidates that rank before
// it. The host does not wait.
#include <torch/csrc/stable/accelerator.h>

#include "checks.h"
#include "selection.h"

namespace dmpo {
namespace {

constexpr int kMaxLength = 4096;
constexpr int kMaxThreads = 1024;
constexpr int kPerThread = kMaxLength / kMaxThreads;

struct Strides {
  int64_t row;
  int64_t position;
};

// Dynamic shared memory, sizes for a row of `length`: scores T[length], positions uint16[length].
template <typename T, typename Task>
__global__ void __launch_bounds__(kMaxThreads) select_kernel(
    int64_t* tokens,
    Strides token_strides,
    const T* confidence,
    Strides confidence_strides,
    int length,
    Task task,
    Rule rule,
    Counts counts,
    int32_t* taken) {
  extern __shared__ __align__(16) unsigned char shared[];
  T* const scores = reinterpret_cast<T*>(shared);
  uint16_t* const positions = reinterpret_cast<uint16_t*>(scores + length);
  __shared__ int gathered;
  __shared__ int chosen;

  const int64_t row = blockIdx.x;
  tokens += row * token_strides.row;
  confidence += row * confidence_strides.row;
  if (threadIdx.x == 0) gathered = 0;
  __syncthreads();

  // Gather the positions that take part, in any order: ranks do not depend on it.
  for (int j = threadIdx.x; j < length; j += blockDim.x) {
    const T value = confidence[j * confidence_strides.position];
    if (task.takes(tokens[j * token_strides.position], value)) {
      const int slot = atomicAdd(&gathered, 1);
      scores[slot] = task.score(value);
      positions[slot] = static_cast<uint16_t>(j);
    }
  }
  __syncthreads();
  const int total = gathered;
  if (threadIdx.x == 0) chosen = total;
  __syncthreads();

  // The prefix ends at the first rank that the rule does not admit.
  const int64_t count = counts.of_row(row);
  int ranks[kPerThread];
  T own[kPerThread];
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int slot = threadIdx.x + k * blockDim.x;
    if (slot >= total) continue;
    int rank = 0;
    for (int other = 0; other < total; ++other) {
      rank += beats(scores[other], positions[other], scores[slot], positions[slot]);
    }
    ranks[k] = rank;
    own[k] = scores[slot];
    if (rule.mode != Mode::risk && !admits(rule, count, rank, own[k])) atomicMin(&chosen, rank);
  }
  __syncthreads();

  if (rule.mode == Mode::risk) {
    // Sorted in place, and added by one thread: in the order of the host's sum.
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) {
      const int slot = threadIdx.x + k * blockDim.x;
      if (slot < total) scores[ranks[k]] = own[k];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      chosen = static_cast<int>(admitted_by_risk(rule, count, total, scores));
    }
    __syncthreads();
  }

#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int slot = threadIdx.x + k * blockDim.x;
    if (slot < total && ranks[k] < chosen) {
      tokens[positions[slot] * token_strides.position] = task.token(row, positions[slot]);
    }
  }
  if (threadIdx.x == 0) taken[row] = chosen;
}

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

template <typename T, typename Task>
void launch(const Selection& selection, Task task) {
  const Tensor& tokens = selection.tokens;
  const Tensor& confidence = selection.confidence;
  const int length = static_cast<int>(tokens.size(1));
  // Up to a full block: a thread then serves at most kPerThread positions.
  unsigned threads = 64;
  while (threads < static_cast<unsigned>(length) && threads < kMaxThreads) threads *= 2;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(tokens.size(0)));
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = length * (sizeof(T) + sizeof(uint16_t));
  config.stream = current_stream(tokens);
  const cudaError_t status = cudaLaunchKernelEx(
      &config,
      select_kernel<T, Task>,
      tokens.mutable_data_ptr<int64_t>(),
      Strides{tokens.stride(0), tokens.stride(1)},
      confidence.const_data_ptr<T>(),
      Strides{confidence.stride(0), confidence.stride(1)},
      length,
      task,
      selection.rule,
      selection.counts_of_rows(),
      selection.taken.mutable_data_ptr<int32_t>());
  if (status != cudaSuccess) {
    throw std::runtime_error(text(selection.op, ": CUDA refused the launch: ", cudaGetErrorString(status)));
  }
}

}  // namespace

void select_cuda(const Selection& selection) {
  const int64_t length = selection.tokens.size(1);
  require(
      length <= kMaxLength, selection.op, ": rows of at most ", kMaxLength, " positions on CUDA, got ", length);
  if (selection.tokens.size(0) == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(selection.tokens.get_device_index());
  const auto run = [&](const auto& task) {
    if (selection.confidence.scalar_type() == ScalarType::Float) {
      launch<float>(selection, task);
    } else {
      launch<double>(selection, task);
    }
  };
  std::visit(run, selection.task);
}

}  // namespace dmpo
