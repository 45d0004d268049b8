// The selection rule of remasking, one definition for host and device.
//
// A task says which positions of a row take part and by which score. They are ranked by score, highest first; equal
// scores go to the lower position. The row takes the longest prefix of that ranking which its rule admits, and each
// position taken receives the task's token.
#pragma once

#include <cstdint>
#include <limits>

#ifdef __CUDACC__
#define DMPO_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define DMPO_HOST_DEVICE inline
#endif

namespace dmpo {

enum class Mode : int32_t { count, threshold, factor, risk };

// value: the threshold, the factor (>= 0), or the tau of `risk`; unused by `count`.
struct Rule {
  Mode mode;
  double value;
};

// How many to take of each row by Mode::count, and how many at least by Mode::risk: one number a row, or one for all.
struct Counts {
  const int64_t* per_row;
  int64_t shared;

  DMPO_HOST_DEVICE int64_t of_row(int64_t row) const {
    return per_row == nullptr ? shared : per_row[row];
  }
};

// remask_: masked positions receive their candidate, the most confident first; NaN ranks last, together with -inf.
struct Unmask {
  int64_t mask_id;
  const int64_t* candidates;
  int64_t row_stride;
  int64_t position_stride;

  template <typename T>
  DMPO_HOST_DEVICE bool takes(int64_t token, T) const {
    return token == mask_id;
  }

  template <typename T>
  DMPO_HOST_DEVICE T score(T confidence) const {
    return confidence == confidence ? confidence : -std::numeric_limits<T>::infinity();
  }

  DMPO_HOST_DEVICE int64_t token(int64_t row, int64_t position) const {
    return candidates[row * row_stride + position * position_stride];
  }
};

// revoke_: tokens whose confidence is below the threshold become masks again, the least confident first. NaN is not
// below anything.
struct Revoke {
  int64_t mask_id;
  double threshold;

  template <typename T>
  DMPO_HOST_DEVICE bool takes(int64_t token, T confidence) const {
    return token != mask_id && static_cast<double>(confidence) < threshold;
  }

  template <typename T>
  DMPO_HOST_DEVICE T score(T confidence) const {
    return -confidence;
  }

  DMPO_HOST_DEVICE int64_t token(int64_t, int64_t) const {
    return mask_id;
  }
};

// Whether position i ranks before position j. The rank of a position is how many positions rank before it.
template <typename T>
DMPO_HOST_DEVICE bool beats(T score_i, int64_t i, T score_j, int64_t j) {
  return score_i > score_j || (score_i == score_j && i < j);
}

// The score that threshold and factor require of a rank > 0; it never falls as the rank grows. The factor rule,
// c_(n) >= 1 - f / (n + 1) with n = rank + 1, is Fast-dLLM's (Wu et al. 2025, arXiv 2505.22618).
DMPO_HOST_DEVICE double bound(Rule rule, int64_t rank) {
  return rule.mode == Mode::threshold ? rule.value : 1.0 - rule.value / static_cast<double>(rank + 2);
}

// Whether the prefix, having reached this rank (0 = best), admits it: the best always, but by count. Not for `risk`.
template <typename T>
DMPO_HOST_DEVICE bool admits(Rule rule, int64_t count, int64_t rank, T score) {
  if (rule.mode == Mode::count) return rank < count;
  return rank == 0 || static_cast<double>(score) >= bound(rule, rank);
}

// How many scores the risk rule admits of `total`, sorted best first: as long as a score is above tau and the sum of
// 1 - score, added in this order in double, stays within 1 - tau; and always the best `count`, at least one. Bounded
// risk is SLIM-RL's (arXiv 2607.00208): the sum bounds the chance that any token of the step is wrong.
template <typename T>
DMPO_HOST_DEVICE int64_t admitted_by_risk(Rule rule, int64_t count, int64_t total, const T* scores) {
  double risk = 0.0;
  int64_t rank = 0;
  for (; rank < total; ++rank) {
    const double probability = static_cast<double>(scores[rank]);
    risk += 1.0 - probability;
    const bool within = probability > rule.value && risk <= 1.0 - rule.value;
    if (!within && rank > 0 && rank >= count) break;
  }
  return rank;
}

}  // namespace dmpo
