#include "staged.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace adamas {
namespace {

// Elements of a piece, a multiple of kGroup that divides a block. With both moments in bfloat16 a step takes 3.6 cycles a
// parameter with 128, 3.2 with 256, 3.0 with 512 and 3.8 with 1024, which is too much for the L1 cache (where and how:
// fused.h).
constexpr int64_t kPiece = 512;
// The buffers of a piece lie a little more than a power of two apart: a store and a load 4096 bytes apart look like one
// address to the processor at first, and wait for each other.
constexpr int64_t kApart = kPiece + 48;

template <class T>
class Stage {
 public:
  explicit Stage(const Job<T>& job) : job_(job), storage_(*job.storage), loops_(loops<T>(*job.kernel)) {}

  // The pieces that follow are of this block.
  void enter(int64_t block) {
    for (int32_t s = 0; s < storage_.slots; ++s) words_[s] = word(static_cast<uint64_t>(s), block);
    parameter_word_ = word(kParameter, block);
  }

  // What the rule adds up over n elements, which lie at `b`, where there are `reach` in all.
  void sum(const adamas_buffers& b, int64_t n, int64_t reach, double (*lanes)[16]) {
    const int32_t correction = storage_.correction;
    const T* const g = opened(storage_.g, const_cast<void*>(b.g), nullptr, g_, n, reach);
    const T* p = nullptr;
    if (job_.reads_parameter) p = opened(storage_.p, b.p, correction < 0 ? nullptr : b.slots[correction], p_, n, reach);
    T* slots[ADAMAS_MAX_SLOTS] = {};
    for (int32_t s = 0; s < storage_.slots; ++s)
      if (job_.reads_slot[s]) slots[s] = opened(storage_.slot[s], b.slots[s], b.scales[s], slots_[s], n, reach);
    job_.reduce(job_.numbers, p, g, slots, n, reach, lanes);
  }

  // Elements first ... first + n - 1 of the tensor, which lie at `b`, where there are `reach` in all.
  void piece(const adamas_buffers& b, int64_t first, int64_t n, int64_t reach, Tally* tally) {
    const int32_t correction = storage_.correction;
    void* const beside = correction < 0 ? nullptr : b.slots[correction];
    T* const p = opened(storage_.p, b.p, beside, p_, n, reach);
    const T* const g = opened(storage_.g, const_cast<void*>(b.g), nullptr, g_, n, reach);
    T* slots[ADAMAS_MAX_SLOTS] = {};
    step(b, p, g, slots, n, reach, tally);
    if (storage_.average >= 0) loops_.average(static_cast<T*>(b.slots[storage_.average]), p, job_.share, n);
    const int64_t element = first % ADAMAS_BLOCK;
    for (int32_t s = 0; s < storage_.slots; ++s)
      close(storage_.slot[s], slots_[s], b.slots[s], b.scales[s], noise_from(words_[s], element), n);
    close(storage_.p, p_, b.p, beside, noise_from(parameter_word_, element), n);
  }

 private:
  static constexpr uint64_t kParameter = 255;  // the number of its "slot" for random bits: docs/formats.md

  uint64_t word(uint64_t slot, int64_t block) const {
    return absorb(absorb(job_.key, slot), static_cast<uint64_t>(block));
  }

  void step(const adamas_buffers& b, T* p, const T* g, T** slots, int64_t n, int64_t reach, Tally* tally) {
    if constexpr (std::is_same<T, float>::value) {
      if (job_.fused) {
        for (int32_t s = 0; s < storage_.slots; ++s) slots[s] = slots_[s];
        if (tally) std::copy_n(p, n, before_);
        job_.fused(job_.numbers, p, g, b, slots, n, reach);
        if (tally) loops_.count(*tally, job_.squares ? g : nullptr, before_, p, slots[job_.root], job_.bound, n);
        return;
      }
    }
    for (int32_t s = 0; s < storage_.slots; ++s)
      slots[s] = opened(storage_.slot[s], b.slots[s], b.scales[s], slots_[s], n, reach);
    if (tally)
      loops_.update_and_count(job_.rule, job_.numbers, p, g, slots, n, reach, *tally, job_.squares, job_.root, job_.bound);
    else
      job_.rule(job_.numbers, p, g, slots, n, reach);
  }

  T* opened(Form form, void* values, const void* beside, T* buffer, int64_t n, int64_t reach) {
    if constexpr (std::is_same<T, float>::value) {
      if (form != kNative) {
        job_.kernel->codes[form].decode(values, beside, buffer, n, reach);
        return buffer;
      }
    }
    return static_cast<T*>(values);
  }

  void close(Form form, const T* buffer, void* values, void* beside, Noise noise, int64_t n) {
    if constexpr (std::is_same<T, float>::value) {
      if (form != kNative) job_.kernel->codes[form].encode(buffer, values, beside, noise, n);
    }
  }

  const Job<T>& job_;
  const Storage& storage_;
  const Loops<T>& loops_;
  uint64_t words_[ADAMAS_MAX_SLOTS] = {}, parameter_word_ = 0;
  alignas(64) T p_[kApart], g_[kApart], before_[kApart], slots_[ADAMAS_MAX_SLOTS][kApart];
};

// Copies of what a piece changes.
template <class T>
class Copies {
 public:
  // Makes them, and returns the buffers with the copies in the originals' places.
  adamas_buffers of(const Storage& storage, const adamas_buffers& b, int64_t n) {
    adamas_buffers copied = b;
    int used = 0;
    copied.p = copy(used++, b.p, n * storage.bytes(storage.p));
    for (int32_t s = 0; s < storage.slots; ++s) {
      copied.slots[s] = copy(used++, b.slots[s], n * storage.bytes(storage.slot[s]));
      if (b.scales[s]) copied.scales[s] = static_cast<float*>(copy(used++, b.scales[s], scales(n)));
    }
    if (storage.correction >= 0) copied.slots[storage.correction] = copy(used++, b.slots[storage.correction], n);
    if (storage.average >= 0)
      copied.slots[storage.average] = copy(used++, b.slots[storage.average], n * storage.width);
    return copied;
  }

  static bool same(const Storage& storage, const adamas_buffers& a, const adamas_buffers& b, int64_t n) {
    bool all = equal(a.p, b.p, n * storage.bytes(storage.p));
    for (int32_t s = 0; s < storage.slots; ++s) {
      all = all && equal(a.slots[s], b.slots[s], n * storage.bytes(storage.slot[s]));
      if (a.scales[s]) all = all && equal(a.scales[s], b.scales[s], scales(n));
    }
    if (storage.correction >= 0) all = all && equal(a.slots[storage.correction], b.slots[storage.correction], n);
    if (storage.average >= 0)
      all = all && equal(a.slots[storage.average], b.slots[storage.average], n * storage.width);
    return all;
  }

 private:
  static int64_t scales(int64_t n) { return (n + kGroup - 1) / kGroup * static_cast<int64_t>(sizeof(float)); }
  static bool equal(const void* a, const void* b, int64_t bytes) {
    return std::memcmp(a, b, static_cast<size_t>(bytes)) == 0;
  }
  void* copy(int place, const void* from, int64_t bytes) {
    return std::memcpy(copies_[place], from, static_cast<size_t>(bytes));
  }

  alignas(64) T copies_[2 * ADAMAS_MAX_SLOTS + 1][kApart];
};

// Lanes combined by halving, as `squares` does.
double fold(const double (&lanes)[16]) {
  double lane[16];
  std::copy_n(lanes, 16, lane);
  for (int width = 8; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  return lane[0];
}

void fold(const Tally& tally, double* statistics) {
  for (int i = 0; i < 3; ++i) statistics[i] = fold(tally.lanes[i]);
  statistics[3] = static_cast<double>(tally.below);
}

// Calls each(buffers, first, n, reach, tally) for the pieces of [begin, end).
template <class T, class Each>
void pieces(const Job<T>& job, Stage<T>& stage, int64_t piece, int64_t begin, int64_t end, double* statistics, Each each) {
  const Storage& storage = *job.storage;
  Tally tally{};
  for (int64_t first = begin; first < end; first += piece) {
    const int64_t n = std::min(piece, end - first);
    if (first % ADAMAS_BLOCK == 0) stage.enter(first / ADAMAS_BLOCK);
    each(advanced(storage, job.buffers, first), first, n, end - first, statistics ? &tally : nullptr);
    const int64_t next = first + n;
    if (statistics && (next == end || next % ADAMAS_BLOCK == 0)) {
      fold(tally, statistics);
      statistics += ADAMAS_STATISTICS;
      tally = {};
    }
  }
}

}  // namespace

template <class T>
void staged(const Job<T>& job, int64_t begin, int64_t end, double* statistics) {
  Stage<T> stage(job);
  const auto each = [&](const adamas_buffers& b, int64_t first, int64_t n, int64_t reach, Tally* tally) {
    stage.piece(b, first, n, reach, tally);
  };
  const bool whole = job.storage->native() && job.storage->average < 0;  // nothing is stored in the stage
  pieces(job, stage, whole ? ADAMAS_BLOCK : kPiece, begin, end, statistics, each);
}

template <class T>
void staged_sums(const Job<T>& job, int32_t reduces, int64_t begin, int64_t end, double* sums) {
  Stage<T> stage(job);
  const Storage& storage = *job.storage;
  for (int64_t block = begin; block < end; block += ADAMAS_BLOCK) {
    const int64_t last = std::min<int64_t>(block + ADAMAS_BLOCK, end);
    double lanes[ADAMAS_MAX_SUMS][16] = {};
    for (int64_t first = block; first < last; first += kPiece)
      stage.sum(advanced(storage, job.buffers, first), std::min(kPiece, last - first), end - first, lanes);
    for (int32_t i = 0; i < reduces; ++i) *sums++ = fold(lanes[i]);
  }
}

template <class T>
bool staged_twice(const Job<T>& job, int64_t begin, int64_t end, double* statistics) {
  Stage<T> stage(job);
  Copies<T> copies;
  bool same = true;
  const auto each = [&](const adamas_buffers& b, int64_t first, int64_t n, int64_t reach, Tally* tally) {
    const adamas_buffers other = copies.of(*job.storage, b, n);
    stage.piece(b, first, n, reach, tally);
    stage.piece(other, first, n, n, nullptr);
    same = same && copies.same(*job.storage, b, other, n);
  };
  pieces(job, stage, kPiece, begin, end, statistics, each);
  return same;
}

template void staged<float>(const Job<float>&, int64_t, int64_t, double*);
template void staged<double>(const Job<double>&, int64_t, int64_t, double*);
template void staged_sums<float>(const Job<float>&, int32_t, int64_t, int64_t, double*);
template void staged_sums<double>(const Job<double>&, int32_t, int64_t, int64_t, double*);
template bool staged_twice<float>(const Job<float>&, int64_t, int64_t, double*);
template bool staged_twice<double>(const Job<double>&, int64_t, int64_t, double*);

}  // namespace adamas
