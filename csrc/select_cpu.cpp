// remask_ and revoke_ on CPU tensors. A row costs one vectorised loop that scores its positions, one that collects the
// candidates, and a selection among them. Bounds, from the best score of each lane or from counting, leave few
// candidates.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#include "checks.h"
#include "selection.h"

// The scoring pass is three to four times faster with AVX2; the loader picks the version for the machine. Sanitizers
// cannot run before the loader does.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__)
#define DMPO_AVX2_CLONE __attribute__((target_clones("avx2", "default")))
#else
#define DMPO_AVX2_CLONE
#endif

namespace dmpo {
namespace {

constexpr int64_t kLanes = 64;
constexpr int64_t kFew = 32;  // up to this count, bounds from the lanes are cheaper than counting
template <typename T>
constexpr T kAbsent = std::numeric_limits<T>::quiet_NaN();  // compares false: never a candidate
template <typename T>
constexpr T kLowest = -std::numeric_limits<T>::infinity();

template <typename T>
struct Candidate {
  T confidence;
  int64_t position;
};

template <typename T>
bool better(const Candidate<T>& a, const Candidate<T>& b) {
  return beats(a.confidence, a.position, b.confidence, b.position);
}

template <typename T>
bool worse(const Candidate<T>& a, const Candidate<T>& b) {
  return better(b, a);
}

// The score of each position that takes part, kAbsent elsewhere; best[lane] is the best score of the positions lane,
// lane + kLanes, ...
template <typename T, typename Task>
DMPO_AVX2_CLONE void score_row(
    const int64_t* __restrict tokens,
    const T* __restrict confidence,
    int64_t length,
    Task task,
    T* __restrict scores,
    T* __restrict best) {
  const auto score_lane = [&](int64_t j, int64_t lane) {
    const T value = task.score(confidence[j]);
    const T score = task.takes(tokens[j], confidence[j]) ? value : kAbsent<T>;
    scores[j] = score;
    best[lane] = score > best[lane] ? score : best[lane];
  };
  int64_t start = 0;
  for (; start + kLanes <= length; start += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) score_lane(start + lane, lane);
  }
  for (int64_t lane = 0; start + lane < length; ++lane) score_lane(start + lane, lane);
}

// The integer type of T's size, and the order of T in it: a higher score never has a lower key.
template <typename T>
using Key = std::conditional_t<sizeof(T) == sizeof(int32_t), int32_t, int64_t>;

template <typename T>
Key<T> key_of(T score) {
  Key<T> bits;
  std::memcpy(&bits, &score, sizeof bits);
  return bits < 0 ? bits ^ std::numeric_limits<Key<T>>::max() : bits;
}

template <typename T>
T score_of(Key<T> key) {
  const Key<T> bits = key < 0 ? key ^ std::numeric_limits<Key<T>>::max() : key;
  T score;
  std::memcpy(&score, &bits, sizeof score);
  return score;
}

// How many scores reach the floor.
template <typename T>
DMPO_AVX2_CLONE int64_t count_at_least(const T* __restrict scores, int64_t length, T floor) {
  Key<T> number = 0;  // as wide as a score, for the sake of the vectors
  for (int64_t j = 0; j < length; ++j) number += scores[j] >= floor;
  return number;
}

template <typename T>
DMPO_AVX2_CLONE T lowest(const T* __restrict scores, int64_t length) {
  T least[kLanes];
  std::fill(least, least + kLanes, -kLowest<T>);
  int64_t start = 0;
  for (; start + kLanes <= length; start += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      least[lane] = scores[start + lane] < least[lane] ? scores[start + lane] : least[lane];
    }
  }
  for (; start < length; ++start) least[0] = scores[start] < least[0] ? scores[start] : least[0];
  return *std::min_element(least, least + kLanes);
}

// Keys low < high: `reach_low` scores reach low, `reach_high` scores reach high, and the key that is searched for lies
// in [low, high).
template <typename T>
struct Bracket {
  Key<T> low, high;
  int64_t reach_low, reach_high;

  int64_t between() const {
    return reach_low - reach_high;
  }

  bool splits() const {
    return low < high - 1;
  }

  // A key strictly inside. Interpolating is quick: between scores for those spread evenly, between keys for those that
  // crowd near zero. The middle key is never slow.
  Key<T> guess(int64_t count, int turn) const {
    const Key<T> middle = (low & high) + ((low ^ high) >> 1);  // a sum would overflow
    const double share = (static_cast<double>(reach_low - count) + 0.5) / static_cast<double>(between());
    double key = std::numeric_limits<double>::quiet_NaN();
    if (turn % 3 == 0) {
      const double bottom = score_of<T>(low), top = score_of<T>(high), score = bottom + share * (top - bottom);
      if (std::isfinite(score)) key = static_cast<double>(key_of(static_cast<T>(score)));
    } else if (turn % 3 == 1) {
      key = static_cast<double>(low) + share * (static_cast<double>(high) - static_cast<double>(low));
    }
    const bool inside = key > static_cast<double>(low) && key < static_cast<double>(high - 1);
    return inside ? std::clamp<Key<T>>(static_cast<Key<T>>(key), low + 1, high - 1) : middle;
  }
};

// Selects in one row at a time; has the scratch memory of a thread.
template <typename T>
class RowSelector {
 public:
  explicit RowSelector(int64_t length)
      : length_(length), scores_(length), candidates_(length) {}

  // Writes the chosen tokens of a row and returns how many positions were chosen.
  template <typename Task>
  int32_t apply(int64_t row, int64_t* tokens, const T* confidence, Task task, Rule rule, int64_t count) {
    if (rule.mode == Mode::count && count <= 0) return 0;
    std::fill(best_, best_ + kLanes, kLowest<T>);
    score_row(tokens, confidence, length_, task, scores_.data(), best_);
    const Candidate<T>* chosen = candidates_.data();
    int64_t number = 0;
    switch (rule.mode) {
      case Mode::count:
        number = count <= kFew ? choose_few(count) : choose_many(count);
        break;
      case Mode::threshold:
        number = collect(bound(rule, 1));
        break;
      case Mode::factor: {
        // A heap yields candidates best first; those taken gather at its back.
        const auto first = candidates_.begin(), last = first + collect(bound(rule, 1));
        auto end = last;
        std::make_heap(first, end, worse<T>);
        while (end != first && admits(rule, 0, number, first->confidence)) {
          std::pop_heap(first, end--, worse<T>);
          ++number;
        }
        chosen += end - first;
        break;
      }
      case Mode::risk: {
        const auto first = candidates_.begin(), last = first + collect(kLowest<T>);
        std::sort(first, last, better<T>);
        for (int64_t rank = 0; rank < found_; ++rank) scores_[rank] = candidates_[rank].confidence;
        number = admitted_by_risk(rule, count, found_, scores_.data());
        break;
      }
    }
    if (number == 0 && collect(floor_of_best(1)) > 0) {  // nothing reaches the bound: the best alone
      number = 1;
      chosen = &*std::min_element(candidates_.begin(), candidates_.begin() + found_, better<T>);
    }
    for (const Candidate<T>* c = chosen; c != chosen + number; ++c) tokens[c->position] = task.token(row, c->position);
    return static_cast<int32_t>(number);
  }

 private:
  // Puts the best `count` candidates, or all if there are fewer, at the front of candidates_; returns how many.
  int64_t choose_few(int64_t count) {
    const int64_t found = collect(floor_of_best(count));
    keep_best(0, count, found);
    return std::min(count, found);
  }

  // Brackets the count-th score: counts how many scores reach a guess, until few scores are left in the bracket. Chosen
  // are the scores above the bracket, and the best scores in it.
  int64_t choose_many(int64_t count) {
    const T* const scores = scores_.data();
    Bracket<T> bracket{
        key_of(lowest(scores, length_)), key_of(*std::max_element(best_, best_ + kLanes)) + 1,
        count_at_least(scores, length_, kLowest<T>), 0};
    if (bracket.reach_low <= count) return collect(kLowest<T>);
    for (int turn = 0; bracket.reach_low > count && bracket.between() > kFew && bracket.splits(); ++turn) {
      const Key<T> guess = bracket.guess(count, turn);
      const int64_t reach = count_at_least(scores, length_, score_of<T>(guess));
      (reach >= count ? bracket.low : bracket.high) = guess;
      (reach >= count ? bracket.reach_low : bracket.reach_high) = reach;
    }
    const T edge = score_of<T>(bracket.low);
    const T above = bracket.reach_high > 0 ? score_of<T>(bracket.high) : kAbsent<T>;
    int64_t next_above = 0, next_edge = bracket.reach_high;
    for (int64_t j = 0; j < length_; ++j) {  // without a branch: no order to predict
      const int64_t is_above = scores[j] >= above;
      candidates_[next_edge + is_above * (next_above - next_edge)] = {scores[j], j};
      next_above += is_above;
      next_edge += (scores[j] >= edge) - is_above;
    }
    keep_best(bracket.reach_high, count, bracket.reach_low);
    return count;
  }

  // Moves the best of candidates_[first, last) into candidates_[first, middle).
  void keep_best(int64_t first, int64_t middle, int64_t last) {
    const auto begin = candidates_.begin();
    if (middle < last) std::nth_element(begin + first, begin + middle - 1, begin + last, better<T>);
  }

  // A confidence that the best `count` <= kLanes candidates reach, if there are that many: `count` lanes reach it.
  T floor_of_best(int64_t count) const {
    T sorted[kLanes];
    std::copy(best_, best_ + kLanes, sorted);
    std::nth_element(sorted, sorted + count - 1, sorted + kLanes, std::greater<T>());
    return sorted[count - 1];
  }

  // Fills candidates_, in no order, with the positions that reach the floor; reads only lanes whose best reaches it.
  int64_t collect(double floor) {
    found_ = 0;
    for (int64_t lane = 0; lane < std::min(kLanes, length_); ++lane) {
      if (static_cast<double>(best_[lane]) < floor) continue;
      for (int64_t j = lane; j < length_; j += kLanes) {
        candidates_[found_] = {scores_[j], j};
        found_ += static_cast<double>(scores_[j]) >= floor;  // without a branch: no order to predict
      }
    }
    return found_;
  }

  int64_t length_;
  int64_t found_ = 0;
  T best_[kLanes];
  std::vector<T> scores_;
  std::vector<Candidate<T>> candidates_;
};

Tensor with_packed_rows(const Tensor& tensor) {
  return tensor.stride(1) == 1 ? tensor : torch::stable::contiguous(tensor);
}

template <typename T, typename Task>
void apply_to_rows(const Selection& selection, const Tensor& tokens, Task task) {
  const Tensor confidence = with_packed_rows(selection.confidence);
  int64_t* const tokens_data = tokens.mutable_data_ptr<int64_t>();
  const T* const confidence_data = confidence.const_data_ptr<T>();
  int32_t* const taken = selection.taken.mutable_data_ptr<int32_t>();
  const Counts counts = selection.counts_of_rows();
  const int64_t length = tokens.size(1);
  constexpr int64_t kPositionsPerTask = 1 << 16;  // about 0.1 ms, well above what waking a thread costs
  const int64_t rows_per_task = std::max<int64_t>(1, kPositionsPerTask / std::max<int64_t>(1, length));
  torch::stable::parallel_for(0, tokens.size(0), rows_per_task, [&](int64_t begin, int64_t end) {
    RowSelector<T> selector(length);
    for (int64_t row = begin; row < end; ++row) {
      taken[row] = selector.apply(
          row,
          tokens_data + row * tokens.stride(0),
          confidence_data + row * confidence.stride(0),
          task,
          selection.rule,
          counts.of_row(row));
    }
  });
}

}  // namespace

void select_cpu(const Selection& selection) {
  const Counts counts = selection.counts_of_rows();
  for (int64_t row = 0; row < selection.tokens.size(0); ++row) {
    require(
        counts.of_row(row) >= 0, selection.op, ": ", selection.count_name, " must not be negative, got ",
        counts.of_row(row), " for row ", row);
  }
  const Tensor tokens = with_packed_rows(selection.tokens);
  const auto apply = [&](const auto& task) {
    if (selection.confidence.scalar_type() == ScalarType::Float) {
      apply_to_rows<float>(selection, tokens, task);
    } else {
      apply_to_rows<double>(selection, tokens, task);
    }
  };
  std::visit(apply, selection.task);
  if (tokens.get() != selection.tokens.get()) {
    Tensor written = selection.tokens;
    torch::stable::copy_(written, tokens);
  }
}

}  // namespace dmpo
