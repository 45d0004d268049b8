// The selection rule of low-confidence remasking, one definition for host and device.
//
// Candidates of a row are ranked by confidence, highest first; equal confidences go to the lower position. A row
// unmasks the longest prefix of that ranking which its rule admits.
#pragma once

#include <cstdint>
#include <limits>

#ifdef __CUDACC__
#define DMPO_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define DMPO_HOST_DEVICE inline
#endif

namespace dmpo {

enum class Mode : int32_t { count, threshold, factor };

// value: the threshold, or the factor (>= 0); unused by `count`.
struct Rule {
  Mode mode;
  double value;
};

// The confidence by which a candidate is ranked: NaN ranks last, together with -inf.
template <typename T>
DMPO_HOST_DEVICE T ranked(T confidence) {
  return confidence == confidence ? confidence : -std::numeric_limits<T>::infinity();
}

// Whether the candidate at position i beats the one at position j. The rank of a candidate is how many beat it.
template <typename T>
DMPO_HOST_DEVICE bool beats(T confidence_i, int64_t i, T confidence_j, int64_t j) {
  return confidence_i > confidence_j || (confidence_i == confidence_j && i < j);
}

// The confidence that threshold and factor ask of a rank > 0; it never falls as the rank grows. The factor rule,
// c_(n) >= 1 - f / (n + 1) with n = rank + 1, is Fast-dLLM's (Wu et al. 2025, arXiv 2505.22618).
DMPO_HOST_DEVICE double bound(Rule rule, int64_t rank) {
  return rule.mode == Mode::threshold ? rule.value : 1.0 - rule.value / static_cast<double>(rank + 2);
}

// Whether the prefix, having reached this rank (0 = best), admits it: the best always, by threshold and factor.
template <typename T>
DMPO_HOST_DEVICE bool admits(Rule rule, int64_t count, int64_t rank, T confidence) {
  if (rule.mode == Mode::count) return rank < count;
  return rank == 0 || static_cast<double>(confidence) >= bound(rule, rank);
}

}  // namespace dmpo
