// Copies runs of consecutive rows of several arrays into contiguous outputs: how a replay makes a batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "native/threads.h"

namespace native {

// An array of rows in memory that others own.
struct RowArray {
    const std::byte* data = nullptr;
    std::size_t row_bytes = 0;
    std::int64_t rows = 0;
};

// The arrays of one store; all have the same number of rows.
class RowGather {
  public:
    // threads >= 1, the caller's included. Throws std::invalid_argument for arrays of different lengths.
    RowGather(std::vector<RowArray> arrays, int threads);

    const std::vector<RowArray>& arrays() const { return arrays_; }

    // Copies rows first[i] .. first[i] + count[i] - 1 for i in [0, runs), one run behind the other, from
    // every array a into out[a]. The bytes are the same for any number of threads. Throws
    // std::invalid_argument for a run outside the arrays before anything is copied. Returns the number of
    // rows of an output.
    void gather(const std::int64_t* first, const std::int64_t* count, std::int64_t runs,
                std::byte* const* out);

    // Rows of an output. Throws std::invalid_argument for a run outside the arrays.
    std::int64_t check(const std::int64_t* first, const std::int64_t* count, std::int64_t runs) const;

  private:
    std::vector<RowArray> arrays_;
    std::int64_t rows_ = 0;
    ThreadPool pool_;
};

// A sequence of rows that follows a chain of chunks: chunk c has the rows c * chunk_steps .. (c + 1) *
// chunk_steps - 1, and next_chunk[c] holds the steps after its last.
struct ChunkChain {
    const std::int64_t* next_chunk = nullptr;
    std::int64_t chunks = 0;
    std::int64_t chunk_steps = 1;
};

// Appends to (first, count) the runs of consecutive rows that hold the `length` steps from step `offset` of
// `chunk` on. Throws std::invalid_argument if the start or the chain leaves the chunks.
void append_runs(const ChunkChain& chain, std::int64_t chunk, std::int64_t offset, std::int64_t length,
                 std::vector<std::int64_t>& first, std::vector<std::int64_t>& count);

}  // namespace native
