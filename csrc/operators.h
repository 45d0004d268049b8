// The operators' entries, the same for every device: schemas, checks that read no tensor values, and the selection that
// a device then runs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <limits>
#include <optional>

#include "checks.h"
#include "selection.h"

namespace dmpo {

constexpr const char* kRemaskSchema =
    "remask_(Tensor(a!) tokens, Tensor candidates, Tensor confidence, int mask_id, *, SymInt? count=None, "
    "Tensor? counts=None, float? threshold=None, float? factor=None, float? risk=None) -> Tensor";
constexpr const char* kRevokeSchema =
    "revoke_(Tensor(a!) tokens, Tensor confidence, int mask_id, float threshold, *, SymInt? limit=None, "
    "Tensor? limits=None) -> Tensor";

// An argument that has one entry a position.
inline void check_like_tokens(
    const char* op, const char* name, const Tensor& tensor, const Tensor& tokens, bool right_type, const char* wanted) {
  require(right_type, op, ": ", name, " must be ", wanted, ", got ", tensor.scalar_type());
  require(
      same_shape(tensor, tokens), op, ": ", name, " must be ", Shape{tokens}, " like tokens, got ", Shape{tensor});
  require(tensor.device() == tokens.device(), op, ": ", name, " must be on the device of tokens");
}

inline void check_rows(const char* op, const Tensor& tokens, const Tensor& confidence) {
  require(tokens.scalar_type() == ScalarType::Long, op, ": tokens must be int64, got ", tokens.scalar_type());
  require(tokens.dim() == 2, op, ": tokens must be [B, L], got ", Shape{tokens});
  require(
      tokens.size(1) <= std::numeric_limits<int32_t>::max(), op, ": a row of ", tokens.size(1), " positions");
  const auto type = confidence.scalar_type();
  check_like_tokens(
      op, "confidence", confidence, tokens, type == ScalarType::Float || type == ScalarType::Double,
      "float32 or float64");
  for (int64_t d = 0; d < 2; ++d) {
    if (tokens.size(d) > 1 && tokens.stride(d) == 0) {
      throw std::runtime_error(text(
          op, ": more than one element of the written-to tensor lies at one place in memory; pass tokens.clone()"));
    }
  }
}

// One count for all rows or one a row, of which at most one is given.
inline void check_counts(
    const char* op,
    const char* name,
    const Tensor& tokens,
    std::optional<int64_t> shared,
    const std::optional<Tensor>& per_row) {
  require(!shared || *shared >= 0, op, ": ", name, " must not be negative, got ", shared.value_or(0));
  if (!per_row) return;
  require(
      is_integral(per_row->scalar_type()), op, ": ", name, " must be an integer tensor, got ",
      per_row->scalar_type());
  require(
      per_row->dim() == 1 && per_row->size(0) == tokens.size(0), op, ": ", name, " must be [", tokens.size(0),
      "], got ", Shape{*per_row});
  require(per_row->device() == tokens.device(), op, ": ", name, " must be on the device of tokens");
}

// modes: how many rules are given. A count beside `risk` is none, but the least number that it takes.
inline Rule checked_rule(
    int modes, std::optional<double> threshold, std::optional<double> factor, std::optional<double> risk) {
  require(modes == 1, "remask_: give exactly one of num_transfer, threshold, factor and risk, got ", modes);
  require(
      !threshold || std::isfinite(*threshold), "remask_: threshold must be finite, got ", threshold.value_or(0));
  require(
      !factor || (std::isfinite(*factor) && *factor >= 0), "remask_: factor must be finite and not negative, got ",
      factor.value_or(0));
  require(!risk || (*risk >= 0 && *risk <= 1), "remask_: risk must be in [0, 1], got ", risk.value_or(0));
  if (threshold) return {Mode::threshold, *threshold};
  if (factor) return {Mode::factor, *factor};
  if (risk) return {Mode::risk, *risk};
  return {Mode::count, 0.0};
}

inline std::optional<Tensor> as_int64(const std::optional<Tensor>& counts) {
  if (!counts) return std::nullopt;
  return torch::stable::contiguous(torch::stable::to(*counts, ScalarType::Long));
}

inline Tensor one_int32_a_row(const Tensor& tokens) {
  const int64_t rows = tokens.size(0);
  return torch::stable::new_empty(tokens, {&rows, 1}, ScalarType::Int);
}

template <Select select>
Tensor remask(
    const Tensor& tokens,
    const Tensor& candidates,
    const Tensor& confidence,
    int64_t mask_id,
    std::optional<int64_t> count,
    const std::optional<Tensor>& counts,
    std::optional<double> threshold,
    std::optional<double> factor,
    std::optional<double> risk) {
  check_rows("remask_", tokens, confidence);
  check_like_tokens("remask_", "candidates", candidates, tokens, candidates.scalar_type() == ScalarType::Long, "int64");
  check_counts("remask_", "num_transfer", tokens, count, counts);
  const int least = count.has_value() + counts.has_value();
  require(least < 2, "remask_: give count or counts, got both");
  const int modes = (risk ? 1 : least) + threshold.has_value() + factor.has_value();
  const Rule rule = checked_rule(modes, threshold, factor, risk);
  const Unmask task{mask_id, candidates.const_data_ptr<int64_t>(), candidates.stride(0), candidates.stride(1)};
  const Tensor moved = one_int32_a_row(tokens);
  select({"remask_", "num_transfer", tokens, confidence, task, rule, count.value_or(0), as_int64(counts), moved});
  return moved;
}

template <Select select>
Tensor revoke(
    const Tensor& tokens,
    const Tensor& confidence,
    int64_t mask_id,
    double threshold,
    std::optional<int64_t> limit,
    const std::optional<Tensor>& limits) {
  check_rows("revoke_", tokens, confidence);
  check_counts("revoke_", "limit", tokens, limit, limits);
  require(limit.has_value() != limits.has_value(), "revoke_: give limit or limits, one of them");
  require(std::isfinite(threshold), "revoke_: threshold must be finite, got ", threshold);
  const Revoke task{mask_id, threshold};
  const Tensor revoked = one_int32_a_row(tokens);
  select(
      {"revoke_", "limit", tokens, confidence, task, {Mode::count, 0.0}, limit.value_or(0), as_int64(limits), revoked});
  return revoked;
}

}  // namespace dmpo
