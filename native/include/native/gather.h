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

}  // namespace native
