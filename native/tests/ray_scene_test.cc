// Checks of the scene for rays that need no Python; run under the sanitizers too.
#include "native/ray_scene.h"

#include <cmath>
#include <vector>

#include "check.h"

using namespace native;

namespace {

Ground flat() { return {std::vector<std::uint8_t>(16, 1), 4, 4, -2.0, -2.0, 1.0, 10, {}, 0, 0, 1.0}; }

RayBox cube(double x, double y, double z, std::uint32_t object) {
    return {{x, y, z}, {1, 1, 1}, {1, 0, 0, 0, 1, 0, 0, 0, 1}, object, 14, {200, 10, 10}};
}

RayHit one(RayScene& scene, std::array<double, 3> from, std::array<double, 3> direction,
           std::uint32_t ignored = 0) {
    RayHit hit{};
    scene.cast(from, direction.data(), 1, 100.0, ignored, &hit);
    return hit;
}

void test_ground() {
    RayScene scene(flat(), {}, 1);
    expect(one(scene, {0, 0, 5}, {0, 0, -1}).distance == 5.0F, "the ground is 5 m below");
    expect(one(scene, {0, 0, 5}, {0, 0, -1}).tag == 1, "class of a cell");
    expect(one(scene, {50, 0, 5}, {0, 0, -1}).tag == 10, "class outside the cells");
    expect(std::isinf(one(scene, {0, 0, 5}, {0, 0, 1}).distance), "nothing above");
    expect(one(scene, {0, 0, 5}, {0, 0, 1}).tag == RayScene::kSky, "the sky");
}

void test_boxes() {
    RayScene scene(flat(), {}, 1);
    scene.set_boxes({cube(10, 0, 1, 7), cube(20, 0, 1, 8)});
    expect(one(scene, {0, 0, 1}, {1, 0, 0}).distance == 9.0F, "the nearer box");
    expect(one(scene, {0, 0, 1}, {1, 0, 0}, 7).object == 8, "an ignored box lets the ray through");
    expect(std::isinf(one(scene, {0, 0, 1}, {-1, 0, 0}).distance), "boxes behind are not met");
    expect(one(scene, {0, 0, 1}, {0, 1, 0}).object == 0, "boxes aside are not met");
    // From within the sphere around a box, with its centre behind the ray.
    scene.set_boxes({cube(0, 0, 1, 9)});
    const double slant = std::sqrt(0.5);
    expect(one(scene, {1.2, 0.9, 1}, {-slant, slant, 0}).object == 0, "past the corner");
    expect(one(scene, {1.1, 0.0, 1}, {-slant, slant, 0}).object == 9, "a face that is close");
}

void test_threads() {
    std::vector<RayBox> boxes;
    for (int i = 0; i < 20; ++i) boxes.push_back(cube(5 + 3 * i, i % 5 - 2, 1, i + 1));
    std::vector<std::uint8_t> pictures[2];
    for (int i = 0; i < 2; ++i) {
        RayScene scene(flat(), {}, 1 + 2 * i);
        scene.set_boxes(boxes);
        pictures[i].resize(4 * 33 * 21);
        scene.draw({0, 0, 2}, {1, 0, 0, 0, 1, 0, 0, 0, 1}, 33, 21, 1.5, Picture::kColor,
                   {{0, 0, 1}, 1.0, 0.001}, 0, pictures[i].data());
    }
    expect(pictures[0] == pictures[1], "threads do not change a picture");
}

void test_bad_ground() {
    Ground ground = flat();
    ground.rows = 3;
    expect(raises([&] { RayScene scene(ground, {}, 1); }), "classes for all cells");
}

}  // namespace

int main() {
    test_ground();
    test_boxes();
    test_threads();
    test_bad_ground();
    return failures;
}
