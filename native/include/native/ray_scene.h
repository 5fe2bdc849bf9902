// Casting rays into a scene of ground and boxes: pictures, distances and what is hit.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "native/threads.h"

namespace native {

// Ground seen from above. The class of a place is that of its cell, `outside` beyond the cells. Heights are
// bilinear between the corners of coarser cells; without any the ground is the plane z = 0.
struct Ground {
    std::vector<std::uint8_t> classes;  // [columns, rows], rows along y
    std::int64_t columns, rows;
    double x, y, cell;  // lower corner and size of a cell, metres
    std::uint8_t outside;
    std::vector<float> heights;  // [height_columns, height_rows] at the corners, or empty
    std::int64_t height_columns, height_rows;
    double height_cell;
};

// An oriented box.
struct RayBox {
    std::array<double, 3> centre, half;
    std::array<double, 9> axes;  // rows: forward, right and up of the box in the world
    std::uint32_t object;
    std::uint8_t tag;
    std::array<std::uint8_t, 3> color;
};

// What a ray meets.
struct RayHit {
    float distance;  // metres, infinite for nothing
    float cosine;    // between the ray and the normal of what it meets, 0 for nothing
    std::uint32_t object;
    std::uint8_t tag;
    std::int32_t box;  // -1 for the ground
};

// How a picture looks.
struct Light {
    std::array<double, 3> toward;  // unit vector to the sun
    double brightness;             // 0 to 1
    double fog;                    // share of the light that is lost per metre
};

enum class Picture { kColor = 0, kTags = 1, kDepth = 2 };

// A scene; results are equal for any number of threads.
class RayScene {
  public:
    static constexpr std::uint8_t kSky = 11;
    static constexpr double kFarthest = 1000.0;  // of depth pictures and of the others

    // Throws std::invalid_argument where the sizes of the ground do not fit.
    RayScene(Ground ground, std::array<std::array<std::uint8_t, 3>, 32> palette, int threads);

    void set_boxes(std::vector<RayBox> boxes) { boxes_ = std::move(boxes); }
    std::int64_t boxes() const { return static_cast<std::int64_t>(boxes_.size()); }

    // Casts `count` rays of unit directions [count, 3]; nothing beyond `range` is met. Boxes of the object
    // `ignored` let rays through (0 for none), so that a sensor does not see what it is fixed to.
    void cast(const std::array<double, 3>& origin, const double* directions, std::int64_t count, double range,
              std::uint32_t ignored, RayHit* out);

    // A picture [height, width, 4], blue, green, red and opaque, of a pinhole camera. `axes` has the camera's
    // forward, right and up as rows, `fov` is the horizontal angle in radians. Tags are in red; depth along
    // the axis is red + 256 green + 65536 blue over 2^24 - 1 of a kilometre.
    void draw(const std::array<double, 3>& origin, const std::array<double, 9>& axes, std::int64_t width,
              std::int64_t height, double fov, Picture picture, const Light& light, std::uint32_t ignored,
              std::uint8_t* out);

  private:
    double meet_ground(const std::array<double, 3>& origin, const double* direction, double range) const;
    double height(double x, double y) const;
    std::uint8_t ground_class(double x, double y) const;
    void cast_some(const std::array<double, 3>& origin, const double* directions, std::int64_t count,
                   double range, std::uint32_t ignored, RayHit* out) const;
    void shade(const std::array<double, 3>& origin, const double* direction, const RayHit& hit,
               const Light& light, std::uint8_t* out) const;

    void paint(const std::array<double, 3>& origin, const std::array<double, 9>& axes,
               const double* direction, const RayHit& hit, Picture picture, const Light& light,
               std::uint8_t* pixel) const;

    Ground ground_;
    std::array<std::array<std::uint8_t, 3>, 32> palette_;
    std::vector<RayBox> boxes_;
    ThreadPool pool_;
};

}  // namespace native
