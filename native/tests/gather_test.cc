// Checks of the row gather that need no Python; run under the sanitizers too.
#include "native/gather.h"

#include <cstdio>
#include <numeric>

#include "check.h"

using namespace native;

namespace {

template <class T>
RowArray rows_of(const std::vector<T>& values, int64_t rows) {
    return {reinterpret_cast<const std::byte*>(values.data()),
            values.size() * sizeof(T) / static_cast<size_t>(rows), rows};
}

void test_threads_copy_the_same() {
    constexpr int64_t kRows = 1000, kWidth = 300;
    std::vector<int32_t> wide(kRows * kWidth);
    std::vector<int64_t> narrow(kRows);
    std::iota(wide.begin(), wide.end(), 0);
    std::iota(narrow.begin(), narrow.end(), 0);
    const std::vector<int64_t> first{990, 0, 500, 3, 0}, count{10, 400, 0, 1, 1000};
    std::vector<int64_t> rows;
    for (size_t i = 0; i < first.size(); ++i)
        for (int64_t row = first[i]; row < first[i] + count[i]; ++row) rows.push_back(row);
    for (const int threads : {1, 2, 4}) {
        RowGather gather({rows_of(wide, kRows), rows_of(narrow, kRows)}, threads);
        std::vector<int32_t> wide_out(rows.size() * kWidth, -1);
        std::vector<int64_t> narrow_out(rows.size(), -1);
        std::byte* out[2] = {reinterpret_cast<std::byte*>(wide_out.data()),
                             reinterpret_cast<std::byte*>(narrow_out.data())};
        for (int repeat = 0; repeat < 20; ++repeat)
            gather.gather(first.data(), count.data(), static_cast<int64_t>(first.size()), out);
        expect(narrow_out == rows, "rows come run behind run");
        bool equal = true;
        for (size_t i = 0; i < wide_out.size(); ++i)
            equal &= wide_out[i] == rows[i / kWidth] * kWidth + static_cast<int64_t>(i % kWidth);
        expect(equal, "wide rows are copied whole");
    }
}

void test_runs_of_chains() {
    const int64_t next[4] = {2, -1, 1, 9};
    const ChunkChain chain{next, 4, 10};
    std::vector<int64_t> first, count;
    append_runs(chain, 0, 7, 3, first, count);   // up to the end of its chunk
    append_runs(chain, 0, 7, 23, first, count);  // through 2 to the end of 1
    append_runs(chain, 1, 0, 0, first, count);   // nothing
    expect(first == std::vector<int64_t>{7, 7, 20, 10}, "runs begin where the chunks do");
    expect(count == std::vector<int64_t>{3, 3, 10, 10}, "runs end where the chunks do");
    expect(raises([&] { append_runs(chain, 0, 7, 24, first, count); }), "the end of a chain is refused");
    expect(raises([&] { append_runs(chain, 3, 9, 2, first, count); }), "a link to no chunk is refused");
    expect(raises([&] { append_runs(chain, 0, 10, 1, first, count); }), "an offset past a chunk is refused");
}

void test_refusals() {
    const std::vector<int64_t> four(4), five(5);
    expect(raises([&] { RowGather({rows_of(four, 4), rows_of(five, 5)}, 1); }), "unequal rows are refused");
    expect(raises([&] { RowGather({}, 1); }), "no arrays are refused");
    const RowGather gather({rows_of(four, 4)}, 1);
    const int64_t first[2] = {0, 3}, count[2] = {4, 2};
    expect(raises([&] { gather.check(first, count, 2); }), "a run past the end is refused");
    expect(gather.check(first, count, 1) == 4, "the rows of the runs are counted");
}

}  // namespace

int main() {
    test_threads_copy_the_same();
    test_runs_of_chains();
    test_refusals();
    if (failures == 0) std::puts("gather_test: ok");
    return failures == 0 ? 0 : 1;
}
