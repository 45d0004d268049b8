// The operators' entries, the same for every device: schemas, checks of what can be seen without reading a tensor, and
// the selection that a device then runs.
#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <optional>

#include "selection.h"

namespace dmpo {

constexpr const char* kRemaskSchema =
    "remask_(Tensor(a!) tokens, Tensor candidates, Tensor confidence, int mask_id, *, SymInt? count=None, "
    "Tensor? counts=None, float? threshold=None, float? factor=None) -> Tensor";
constexpr const char* kRevokeSchema =
    "revoke_(Tensor(a!) tokens, Tensor confidence, int mask_id, float threshold, *, SymInt? limit=None, "
    "Tensor? limits=None) -> Tensor";

// An argument that has one entry a position.
inline void check_like_tokens(
    const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& tokens, bool right_type,
    const char* wanted) {
  TORCH_CHECK_TYPE(right_type, op, ": ", name, " must be ", wanted, ", got ", tensor.scalar_type());
  TORCH_CHECK_VALUE(
      tensor.sizes() == tokens.sizes(), op, ": ", name, " must be ", tokens.sizes(), " like tokens, got ",
      tensor.sizes());
  TORCH_CHECK_VALUE(
      tensor.device() == tokens.device(), op, ": ", name, " must be on ", tokens.device(), " like tokens, got ",
      tensor.device());
}

inline void check_rows(const char* op, const at::Tensor& tokens, const at::Tensor& confidence) {
  TORCH_CHECK_TYPE(
      tokens.scalar_type() == at::kLong, op, ": tokens must be int64, got ", tokens.scalar_type());
  TORCH_CHECK_VALUE(tokens.dim() == 2, op, ": tokens must be [B, L], got ", tokens.sizes());
  TORCH_CHECK_VALUE(
      tokens.size(1) <= std::numeric_limits<int32_t>::max(), op, ": a row of ", tokens.size(1), " positions");
  const auto type = confidence.scalar_type();
  check_like_tokens(
      op, "confidence", confidence, tokens, type == at::kFloat || type == at::kDouble, "float32 or float64");
  at::assert_no_internal_overlap(tokens);
}

// One count for all rows or one a row, of which at most one is given.
inline void check_counts(
    const char* op,
    const char* name,
    const at::Tensor& tokens,
    std::optional<int64_t> shared,
    const std::optional<at::Tensor>& per_row) {
  TORCH_CHECK_VALUE(!shared || *shared >= 0, op, ": ", name, " must not be negative, got ", *shared);
  if (!per_row) return;
  TORCH_CHECK_TYPE(
      at::isIntegralType(per_row->scalar_type(), /*includeBool=*/false), op, ": ", name,
      " must be an integer tensor, got ", per_row->scalar_type());
  TORCH_CHECK_VALUE(
      per_row->dim() == 1 && per_row->size(0) == tokens.size(0), op, ": ", name, " must be [", tokens.size(0),
      "], got ", per_row->sizes());
  TORCH_CHECK_VALUE(
      per_row->device() == tokens.device(), op, ": ", name, " must be on ", tokens.device(), " like tokens, got ",
      per_row->device());
}

inline Rule checked_rule(int modes, std::optional<double> threshold, std::optional<double> factor) {
  TORCH_CHECK_VALUE(modes == 1, "remask_: give exactly one of num_transfer, threshold and factor, got ", modes);
  TORCH_CHECK_VALUE(!threshold || std::isfinite(*threshold), "remask_: threshold must be finite, got ", *threshold);
  TORCH_CHECK_VALUE(
      !factor || (std::isfinite(*factor) && *factor >= 0), "remask_: factor must be finite and not negative, got ",
      *factor);
  if (threshold) return {Mode::threshold, *threshold};
  if (factor) return {Mode::factor, *factor};
  return {Mode::count, 0.0};
}

inline std::optional<at::Tensor> as_int64(const std::optional<at::Tensor>& counts) {
  if (!counts) return std::nullopt;
  return counts->to(at::kLong).contiguous();
}

inline at::Tensor one_int32_a_row(const at::Tensor& tokens) {
  return at::empty({tokens.size(0)}, tokens.options().dtype(at::kInt));
}

template <Select select>
at::Tensor remask(
    at::Tensor& tokens,
    const at::Tensor& candidates,
    const at::Tensor& confidence,
    int64_t mask_id,
    std::optional<int64_t> count,
    const std::optional<at::Tensor>& counts,
    std::optional<double> threshold,
    std::optional<double> factor) {
  check_rows("remask_", tokens, confidence);
  check_like_tokens("remask_", "candidates", candidates, tokens, candidates.scalar_type() == at::kLong, "int64");
  check_counts("remask_", "num_transfer", tokens, count, counts);
  const int modes = count.has_value() + counts.has_value() + threshold.has_value() + factor.has_value();
  const Rule rule = checked_rule(modes, threshold, factor);
  const Unmask task{mask_id, candidates.const_data_ptr<int64_t>(), candidates.stride(0), candidates.stride(1)};
  const at::Tensor moved = one_int32_a_row(tokens);
  select({"remask_", "num_transfer", tokens, confidence, task, rule, count.value_or(0), as_int64(counts), moved});
  return moved;
}

template <Select select>
at::Tensor revoke(
    at::Tensor& tokens,
    const at::Tensor& confidence,
    int64_t mask_id,
    double threshold,
    std::optional<int64_t> limit,
    const std::optional<at::Tensor>& limits) {
  check_rows("revoke_", tokens, confidence);
  check_counts("revoke_", "limit", tokens, limit, limits);
  TORCH_CHECK_VALUE(limit.has_value() != limits.has_value(), "revoke_: give limit or limits, one of them");
  TORCH_CHECK_VALUE(std::isfinite(threshold), "revoke_: threshold must be finite, got ", threshold);
  const Revoke task{mask_id, threshold};
  const at::Tensor revoked = one_int32_a_row(tokens);
  select(
      {"revoke_", "limit", tokens, confidence, task, {Mode::count, 0.0}, limit.value_or(0), as_int64(limits), revoked});
  return revoked;
}

}  // namespace dmpo
