// Checks of the sum tree that need no Python; run under the sanitizers too.
#include "native/sum_tree.h"

#include <cmath>
#include <cstdio>
#include <limits>

#include "check.h"

using namespace native;

namespace {

// A generator of its own keeps the test reproducible everywhere (Knuth's MMIX constants).
struct Random {
    uint64_t state = 1;
    double uniform() {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        return static_cast<double>(state >> 11) * 0x1p-53;
    }
    int64_t below(int64_t n) { return static_cast<int64_t>(uniform() * static_cast<double>(n)); }
};

void test_every_size() {
    Random random;
    for (const int64_t size : {1, 2, 7, 8, 9, 63, 64, 65, 511, 512, 513, 5000}) {
        SumTree tree(size), fresh(size);
        std::vector<double> leaves(static_cast<size_t>(size), 0.0);
        for (int round = 0; round < 50; ++round) {
            std::vector<int64_t> index;
            std::vector<double> priority;
            for (int i = 0; i < 20; ++i) {
                index.push_back(random.below(size));
                priority.push_back(random.uniform() < 0.3 ? 0.0 : random.uniform());
                leaves[static_cast<size_t>(index.back())] = priority.back();
            }
            tree.update(index.data(), priority.data(), 20);
        }
        fresh.assign(0, leaves.data(), size);
        expect(tree.total() == fresh.total(), "updates give the sums of a rebuild");
        if (tree.total() == 0.0) continue;
        std::vector<double> uniform(1000), priority(1000);
        std::vector<int64_t> index(1000);
        for (double& u : uniform) u = random.uniform();
        uniform[0] = 0.0;
        uniform[1] = std::nextafter(1.0, 0.0);
        tree.sample(uniform.data(), index.data(), priority.data(), 1000);
        for (size_t i = 0; i < index.size(); ++i) {
            expect(index[i] >= 0 && index[i] < size, "draws stay inside the tree");
            expect(priority[i] > 0.0, "no draw has priority 0");
            expect(priority[i] == leaves[static_cast<size_t>(index[i])], "draws carry their priority");
        }
        tree.fill(0, size, 0.0);
        expect(tree.total() == 0.0, "an emptied tree has total 0");
    }
}

// Both the running sum 1.5 + (2^52 + 2) and the rest (2^52 + 3) - 1.5 are ties that round to even: up. The
// rest is then the whole sum of the second node, none of whose running sums exceeds it.
void test_rounding_past_the_end() {
    SumTree tree(64);
    tree.fill(0, 1, 1.5);
    tree.fill(8, 1, 0x1p52 + 2);
    expect(tree.total() == 0x1p52 + 4, "the sum rounds up");
    const double uniform = 1.0 - 0x1p-52;
    int64_t index = -1;
    double priority = 0.0;
    tree.sample(&uniform, &index, &priority, 1);
    expect(index == 8 && priority == 0x1p52 + 2, "a draw past the end takes the last positive leaf");
}

void test_refusals() {
    SumTree tree(10);
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const int64_t index[2] = {1, 10};
    const double good[2] = {1.0, 1.0}, bad[2] = {1.0, nan};
    expect(raises([&] { SumTree(0); }), "an empty tree is refused");
    expect(raises([&] { tree.update(index, good, 2); }), "an index past the end is refused");
    expect(raises([&] { tree.assign(0, bad, 2); }), "NaN is refused");
    expect(raises([&] { tree.fill(0, 1, -1.0); }), "a negative priority is refused");
    expect(raises([&] { tree.fill(5, 6, 1.0); }), "a range past the end is refused");
    expect(raises([&] { tree.fill(std::numeric_limits<int64_t>::max(), 1, 1.0); }), "overflow is refused");
    int64_t drawn;
    double priority;
    expect(raises([&] { tree.sample(good, &drawn, &priority, 0); }), "a total of 0 is refused");
    expect(tree.total() == 0.0, "a refused call changes nothing");
    tree.fill(0, 10, 1.0);
    expect(raises([&] { tree.sample(good, &drawn, &priority, 1); }), "a uniform of 1 is refused");
}

}  // namespace

int main() {
    test_every_size();
    test_rounding_past_the_end();
    test_refusals();
    if (failures == 0) std::puts("sum_tree_test: ok");
    return failures == 0 ? 0 : 1;
}
