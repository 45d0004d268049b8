// remask_ on CUDA tensors: one block a row, every candidate counts those that beat it. No host synchronisation.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>

#include "checks.h"
#include "remask.h"

namespace dmpo {
namespace {

constexpr int kMaxLength = 4096;
constexpr int kMaxThreads = 1024;
constexpr int kPerThread = kMaxLength / kMaxThreads;

struct Strides {
  int64_t row;
  int64_t position;
};

// Dynamic shared memory, sizes for a row of `length`: confidences T[length], positions uint16[length].
template <typename T>
__global__ void __launch_bounds__(kMaxThreads) remask_kernel(
    int64_t* tokens,
    Strides token_strides,
    const int64_t* candidates,
    Strides candidate_strides,
    const T* confidence,
    Strides confidence_strides,
    int length,
    int64_t mask_id,
    Rule rule,
    Counts counts,
    int32_t* moved) {
  extern __shared__ __align__(16) unsigned char shared[];
  T* const scores = reinterpret_cast<T*>(shared);
  uint16_t* const positions = reinterpret_cast<uint16_t*>(scores + length);
  __shared__ int masks;
  __shared__ int chosen;

  const int64_t row = blockIdx.x;
  tokens += row * token_strides.row;
  candidates += row * candidate_strides.row;
  confidence += row * confidence_strides.row;
  if (threadIdx.x == 0) masks = 0;
  __syncthreads();

  // Gather the masked positions, in any order: ranks do not depend on it.
  for (int j = threadIdx.x; j < length; j += blockDim.x) {
    if (tokens[j * token_strides.position] == mask_id) {
      const int slot = atomicAdd(&masks, 1);
      scores[slot] = ranked(confidence[j * confidence_strides.position]);
      positions[slot] = static_cast<uint16_t>(j);
    }
  }
  __syncthreads();
  const int total = masks;
  if (threadIdx.x == 0) chosen = total;
  __syncthreads();

  // The prefix ends at the first rank that the rule does not admit.
  const int64_t count = counts.of_row(row);
  int ranks[kPerThread];
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int slot = threadIdx.x + k * blockDim.x;
    if (slot >= total) continue;
    int rank = 0;
    for (int other = 0; other < total; ++other) {
      rank += beats(scores[other], positions[other], scores[slot], positions[slot]);
    }
    ranks[k] = rank;
    if (!admits(rule, count, rank, scores[slot])) atomicMin(&chosen, rank);
  }
  __syncthreads();

#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int slot = threadIdx.x + k * blockDim.x;
    if (slot < total && ranks[k] < chosen) {
      tokens[positions[slot] * token_strides.position] = candidates[positions[slot] * candidate_strides.position];
    }
  }
  if (threadIdx.x == 0) moved[row] = chosen;
}

}  // namespace

at::Tensor remask_cuda(
    at::Tensor& tokens,
    const at::Tensor& candidates,
    const at::Tensor& confidence,
    int64_t mask_id,
    std::optional<int64_t> count,
    const std::optional<at::Tensor>& counts,
    std::optional<double> threshold,
    std::optional<double> factor) {
  const Rule rule = check_remask(tokens, candidates, confidence, count, counts, threshold, factor);
  const int64_t rows = tokens.size(0), length = tokens.size(1);
  TORCH_CHECK_VALUE(
      length <= kMaxLength, "remask_: rows of at most ", kMaxLength, " positions on CUDA, got ", length);
  const c10::cuda::CUDAGuard guard(tokens.device());
  const at::Tensor per_row = counts ? counts->to(at::kLong).contiguous() : at::Tensor();
  at::Tensor moved = at::empty({rows}, tokens.options().dtype(at::kInt));
  if (rows == 0) return moved;
  const Counts of_rows{counts ? per_row.const_data_ptr<int64_t>() : nullptr, count.value_or(0)};
  // Up to a full block: a thread then serves at most kPerThread positions.
  int threads = 64;
  while (threads < length && threads < kMaxThreads) threads *= 2;
  AT_DISPATCH_FLOATING_TYPES(confidence.scalar_type(), "remask_", [&] {
    const size_t shared_bytes = length * (sizeof(scalar_t) + sizeof(uint16_t));
    remask_kernel<scalar_t><<<rows, threads, shared_bytes, c10::cuda::getCurrentCUDAStream()>>>(
        tokens.mutable_data_ptr<int64_t>(),
        {tokens.stride(0), tokens.stride(1)},
        candidates.const_data_ptr<int64_t>(),
        {candidates.stride(0), candidates.stride(1)},
        confidence.const_data_ptr<scalar_t>(),
        {confidence.stride(0), confidence.stride(1)},
        static_cast<int>(length),
        mask_id,
        rule,
        of_rows,
        moved.mutable_data_ptr<int32_t>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return moved;
}

}  // namespace dmpo
