// Argument checks shared by the CPU and CUDA sides of remask_: types and shapes, never values on a device.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/MemoryOverlap.h>

#include <cmath>
#include <optional>

#include "remask.h"

namespace dmpo {

// How many to unmask in each row: one number a row, or one for all.
struct Counts {
  const int64_t* per_row;
  int64_t shared;

  DMPO_HOST_DEVICE int64_t of_row(int64_t row) const {
    return per_row == nullptr ? shared : per_row[row];
  }
};

inline Rule check_remask(
    const at::Tensor& tokens,
    const at::Tensor& candidates,
    const at::Tensor& confidence,
    std::optional<int64_t> count,
    const std::optional<at::Tensor>& counts,
    std::optional<double> threshold,
    std::optional<double> factor) {
  TORCH_CHECK_TYPE(tokens.scalar_type() == at::kLong, "remask_: tokens must be int64, got ", tokens.scalar_type());
  TORCH_CHECK_TYPE(
      candidates.scalar_type() == at::kLong, "remask_: candidates must be int64, got ", candidates.scalar_type());
  TORCH_CHECK_TYPE(
      confidence.scalar_type() == at::kFloat || confidence.scalar_type() == at::kDouble,
      "remask_: confidence must be float32 or float64, got ",
      confidence.scalar_type());
  TORCH_CHECK_VALUE(tokens.dim() == 2, "remask_: tokens must be [B, L], got ", tokens.sizes());
  TORCH_CHECK_VALUE(
      candidates.sizes() == tokens.sizes() && confidence.sizes() == tokens.sizes(),
      "remask_: candidates and confidence must have the shape of tokens ",
      tokens.sizes(),
      ", got ",
      candidates.sizes(),
      " and ",
      confidence.sizes());
  TORCH_CHECK_VALUE(
      candidates.device() == tokens.device() && confidence.device() == tokens.device(),
      "remask_: candidates and confidence must be on the device of tokens, ",
      tokens.device());
  TORCH_CHECK_VALUE(
      tokens.size(1) <= std::numeric_limits<int32_t>::max(), "remask_: a row of ", tokens.size(1), " positions");
  at::assert_no_internal_overlap(tokens);
  const int modes = count.has_value() + counts.has_value() + threshold.has_value() + factor.has_value();
  TORCH_CHECK_VALUE(modes == 1, "remask_: give exactly one of num_transfer, threshold and factor, got ", modes);
  if (counts) {
    TORCH_CHECK_TYPE(
        at::isIntegralType(counts->scalar_type(), /*includeBool=*/false),
        "remask_: num_transfer must be an integer tensor, got ",
        counts->scalar_type());
    TORCH_CHECK_VALUE(
        counts->dim() == 1 && counts->size(0) == tokens.size(0),
        "remask_: num_transfer must be [",
        tokens.size(0),
        "], got ",
        counts->sizes());
    TORCH_CHECK_VALUE(
        counts->device() == tokens.device(),
        "remask_: num_transfer must be on the device of tokens, ",
        tokens.device());
  }
  TORCH_CHECK_VALUE(!count || *count >= 0, "remask_: num_transfer must not be negative, got ", *count);
  TORCH_CHECK_VALUE(!threshold || std::isfinite(*threshold), "remask_: threshold must be finite, got ", *threshold);
  TORCH_CHECK_VALUE(
      !factor || (std::isfinite(*factor) && *factor >= 0),
      "remask_: factor must be finite and not negative, got ",
      *factor);
  if (threshold) return {Mode::threshold, *threshold};
  if (factor) return {Mode::factor, *factor};
  return {Mode::count, 0.0};
}

}  // namespace dmpo
