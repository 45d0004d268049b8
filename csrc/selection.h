// The checked arguments of an operator, for the code of a device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <variant>

#include "selection_rule.h"

namespace dmpo {

// `taken` is the result: how many of each row.
struct Selection {
  const char* op;  // this and the next: names for messages
  const char* count_name;
  const torch::stable::Tensor& tokens;  // int64 [B, L], written in place
  const torch::stable::Tensor& confidence;  // float32 or float64 [B, L]
  std::variant<Unmask, Revoke> task;
  Rule rule;
  int64_t count;  // for every row, unless there are `counts`
  std::optional<torch::stable::Tensor> counts;  // int64 [B], contiguous
  const torch::stable::Tensor& taken;  // int32 [B]

  Counts counts_of_rows() const {
    return {counts ? counts->const_data_ptr<int64_t>() : nullptr, count};
  }
};

using Select = void (*)(const Selection&);

// Both write tokens and taken. On CUDA the work is put on the current stream of the tokens' device.
void select_cpu(const Selection& selection);
void select_cuda(const Selection& selection);

}  // namespace dmpo
