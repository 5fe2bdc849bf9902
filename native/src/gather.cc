#include "native/gather.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

namespace native {
namespace {

constexpr std::size_t kSmallPiece = 1 << 10;  // bytes up to which a piece is fetched ahead
constexpr std::size_t kCacheLine = 64;

// A copy of consecutive bytes.
struct Piece {
    std::byte* target;
    const std::byte* source;
    std::size_t bytes;
};

}  // namespace

RowGather::RowGather(std::vector<RowArray> arrays, int threads) : arrays_(std::move(arrays)), pool_(threads) {
    if (arrays_.empty()) throw std::invalid_argument("there must be at least one array");
    rows_ = arrays_.front().rows;
    for (const RowArray& array : arrays_) {
        if (array.rows != rows_)
            throw std::invalid_argument("the arrays must have equally many rows, not " +
                                        std::to_string(rows_) + " and " + std::to_string(array.rows));
    }
}

std::int64_t RowGather::check(const std::int64_t* first, const std::int64_t* count, std::int64_t runs) const {
    std::int64_t total = 0;
    for (std::int64_t i = 0; i < runs; ++i) {
        if (first[i] < 0 || count[i] < 0 || count[i] > rows_ || first[i] > rows_ - count[i])
            throw std::invalid_argument("runs must lie in [0, " + std::to_string(rows_) + "), not " +
                                        std::to_string(count[i]) + " rows from " + std::to_string(first[i]) +
                                        " on");
        total += count[i];
    }
    return total;
}

void RowGather::gather(const std::int64_t* first, const std::int64_t* count, std::int64_t runs,
                       std::byte* const* out) {
    check(first, count, runs);
    std::vector<Piece> pieces;
    pieces.reserve(arrays_.size() * static_cast<std::size_t>(runs));
    for (std::size_t a = 0; a < arrays_.size(); ++a) {
        const std::size_t row_bytes = arrays_[a].row_bytes;
        std::byte* target = out[a];
        for (std::int64_t i = 0; i < runs; ++i) {
            const std::size_t bytes = static_cast<std::size_t>(count[i]) * row_bytes;
            pieces.push_back(
                {target, arrays_[a].data + static_cast<std::size_t>(first[i]) * row_bytes, bytes});
            target += bytes;
        }
    }
    // Large pieces stream; of small ones, each a cache miss or two, the misses shall overlap.
    for (const Piece& piece : pieces) {
        if (piece.bytes > kSmallPiece) continue;
        for (std::size_t byte = 0; byte < piece.bytes; byte += kCacheLine)
            __builtin_prefetch(piece.source + byte);
    }
    const auto copy = [&](std::int64_t i, int) {
        const Piece& piece = pieces[static_cast<std::size_t>(i)];
        if (piece.bytes > 0) std::memcpy(piece.target, piece.source, piece.bytes);
    };
    if (pool_.size() == 1) {
        for (std::size_t i = 0; i < pieces.size(); ++i) copy(static_cast<std::int64_t>(i), 0);
    } else {
        pool_.run(static_cast<std::int64_t>(pieces.size()), copy);
    }
}

void append_runs(const ChunkChain& chain, std::int64_t chunk, std::int64_t offset, std::int64_t length,
                 std::vector<std::int64_t>& first, std::vector<std::int64_t>& count) {
    if (offset < 0 || offset >= chain.chunk_steps)
        throw std::invalid_argument("offset must lie in [0, " + std::to_string(chain.chunk_steps) +
                                    "), not " + std::to_string(offset));
    for (std::int64_t left = length; left > 0; offset = 0, chunk = chain.next_chunk[chunk]) {
        if (chunk < 0 || chunk >= chain.chunks)
            throw std::invalid_argument("a sequence of " + std::to_string(length) + " steps leads to chunk " +
                                        std::to_string(chunk) + " of " + std::to_string(chain.chunks));
        const std::int64_t steps = std::min(left, chain.chunk_steps - offset);
        first.push_back(chunk * chain.chunk_steps + offset);
        count.push_back(steps);
        left -= steps;
    }
}

}  // namespace native
