// The tensors of a step cut into chunks, the units that threads share out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "adamas.h"

namespace adamas {

// Elements a chunk holds at least, a multiple of the block: small enough to share 500 tensors of 1000 out among many
// threads, large enough that its start costs nothing (16384 elements: 3% slower on one large tensor).
constexpr int64_t kChunk = 8 * ADAMAS_BLOCK;

struct Segment {
  int64_t active;  // position in the step's list of active tensors
  int64_t begin, end;
  int64_t block;   // where its block partials start
};

// The tensors of a step cut into chunks: tensors are cut at blocks, small ones share a chunk.
struct Chunks {
  std::vector<Segment> segments;
  std::vector<int64_t> starts;         // chunk c is segments[starts[c]] ... segments[starts[c + 1] - 1]
  std::vector<int64_t> blocks;         // per active tensor: its first block partial; one past the end closes the list

  int64_t count() const { return static_cast<int64_t>(starts.size()) - 1; }

  void cut(const std::vector<int64_t>& sizes, const std::vector<int64_t>& active) {
    segments.clear();
    starts.assign(1, 0);
    blocks.clear();
    int64_t held = 0, block = 0;
    for (size_t k = 0; k < active.size(); ++k) {
      const int64_t size = sizes[active[k]];
      blocks.push_back(block);
      for (int64_t begin = 0; begin < size;) {
        const int64_t end = std::min(size, begin + kChunk);
        segments.push_back({static_cast<int64_t>(k), begin, end, block + begin / ADAMAS_BLOCK});
        held += end - begin;
        begin = end;
        if (held >= kChunk) {
          starts.push_back(static_cast<int64_t>(segments.size()));
          held = 0;
        }
      }
      block += (size + ADAMAS_BLOCK - 1) / ADAMAS_BLOCK;
    }
    if (held > 0) starts.push_back(static_cast<int64_t>(segments.size()));
    blocks.push_back(block);
  }
};

}  // namespace adamas
