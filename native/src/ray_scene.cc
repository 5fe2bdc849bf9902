#include "native/ray_scene.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace native {
namespace {

constexpr std::int64_t kBundle = 64;  // rays that boxes are tested against together
constexpr std::int64_t kTile = 8;     // pixels of a side of a bundle in a picture
constexpr float kNothing = std::numeric_limits<float>::infinity();
constexpr double kMarch = 0.5;  // step over uneven ground as a share of its cells
constexpr int kHalvings = 12;
constexpr double kAmbient = 0.55, kDiffuse = 0.45;
constexpr std::array<double, 3> kHorizon{178, 196, 214}, kZenith{96, 140, 200};  // of the sky

double dot(const std::array<double, 3>& a, const double* b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// Distance along the ray to the box, and the face: 0 to 2 for its axes, negative sides as -1 to -3.
bool meet_box(const RayBox& box, const std::array<double, 3>& offset, const double* direction, double nearest,
              double& distance, int& face) {
    double low = -std::numeric_limits<double>::infinity(), high = nearest;
    int entered = 0;
    for (int k = 0; k < 3; ++k) {
        const double* axis = &box.axes[3 * k];
        const double along = axis[0] * direction[0] + axis[1] * direction[1] + axis[2] * direction[2];
        const double from = dot(offset, axis);
        if (std::abs(along) < 1e-12) {
            if (std::abs(from) > box.half[k]) return false;
            continue;
        }
        const double one = (from - box.half[k]) / along, two = (from + box.half[k]) / along;
        const double first = std::min(one, two), last = std::max(one, two);
        if (first > low) {
            low = first;
            entered = along > 0 ? -1 - k : k;
        }
        high = std::min(high, last);
        if (low > high) return false;
    }
    if (low <= 0) return false;  // behind, or from inside: a box is seen from outside only
    distance = low;
    face = entered;
    return true;
}

// The narrowest cone around the mean of some directions that holds them all.
class Cone {
  public:
    Cone(const double* directions, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i)
            for (int k = 0; k < 3; ++k) axis_[k] += directions[3 * i + k];
        const double length = std::sqrt(dot(axis_, axis_.data()));
        double least = -1.0;
        if (length > 1e-6) {
            least = 1.0;
            for (double& value : axis_) value /= length;
            for (std::int64_t i = 0; i < count; ++i) least = std::min(least, dot(axis_, directions + 3 * i));
        }
        angle_ = std::acos(std::clamp(least, -1.0, 1.0));
    }

    // Whether a sphere at `offset` may be met within the range.
    bool may_meet(const std::array<double, 3>& offset, double far, double radius, double range) const {
        if (far - radius > range) return false;
        if (far <= radius) return true;
        const double angle = std::acos(std::clamp(dot(axis_, offset.data()) / far, -1.0, 1.0));
        return angle <= angle_ + std::asin(radius / far) + 1e-6;
    }

  private:
    std::array<double, 3> axis_{};
    double angle_ = 0;
};

}  // namespace

RayScene::RayScene(Ground ground, std::array<std::array<std::uint8_t, 3>, 32> palette, int threads)
    : ground_(std::move(ground)), palette_(palette), pool_(threads) {
    const Ground& g = ground_;
    if (g.columns < 1 || g.rows < 1 || static_cast<std::int64_t>(g.classes.size()) != g.columns * g.rows)
        throw std::invalid_argument("the ground must have at least one cell, and classes for all");
    if (!(g.cell > 0) || !std::isfinite(g.x) || !std::isfinite(g.y))
        throw std::invalid_argument("cells of the ground must have a positive size, not " +
                                    std::to_string(g.cell));
    if (g.heights.empty()) return;
    if (static_cast<std::int64_t>(g.heights.size()) != g.height_columns * g.height_rows ||
        g.height_columns < 2 || g.height_rows < 2 || !(g.height_cell > 0))
        throw std::invalid_argument("heights must be given at the corners of at least one cell");
}

std::uint8_t RayScene::ground_class(double x, double y) const {
    const Ground& g = ground_;
    const double column = std::floor((x - g.x) / g.cell), row = std::floor((y - g.y) / g.cell);
    const bool inside = column >= 0 && row >= 0 && column < static_cast<double>(g.columns) &&
                        row < static_cast<double>(g.rows);
    if (!inside) return g.outside;
    return g.classes[static_cast<std::int64_t>(column) * g.rows + static_cast<std::int64_t>(row)];
}

double RayScene::height(double x, double y) const {
    const Ground& g = ground_;
    const double u = std::clamp((x - g.x) / g.height_cell, 0.0, static_cast<double>(g.height_columns - 1));
    const double v = std::clamp((y - g.y) / g.height_cell, 0.0, static_cast<double>(g.height_rows - 1));
    const auto i = std::min(static_cast<std::int64_t>(u), g.height_columns - 2);
    const auto j = std::min(static_cast<std::int64_t>(v), g.height_rows - 2);
    const double a = u - static_cast<double>(i), b = v - static_cast<double>(j);
    const float* h = &g.heights[i * g.height_rows + j];
    return (1 - a) * ((1 - b) * h[0] + b * h[1]) +
           a * ((1 - b) * h[g.height_rows] + b * h[g.height_rows + 1]);
}

// Distance along the ray, infinite where it does not meet the ground within the range.
double RayScene::meet_ground(const std::array<double, 3>& origin, const double* d, double range) const {
    constexpr double none = std::numeric_limits<double>::infinity();
    if (ground_.heights.empty()) {
        if (!(d[2] < 0) || origin[2] <= 0) return none;
        const double distance = -origin[2] / d[2];
        return distance <= range ? distance : none;
    }
    const auto above = [&](double t) {
        return origin[2] + t * d[2] - height(origin[0] + t * d[0], origin[1] + t * d[1]);
    };
    if (above(0) <= 0) return none;
    const double stride = kMarch * ground_.height_cell;
    for (double t = 0; t < range; t += stride) {
        double low = t, high = std::min(t + stride, range);
        if (above(high) > 0) continue;
        for (int k = 0; k < kHalvings; ++k) {
            const double middle = 0.5 * (low + high);
            (above(middle) > 0 ? low : high) = middle;
        }
        return high;
    }
    return none;
}

void RayScene::cast_some(const std::array<double, 3>& origin, const double* directions, std::int64_t count,
                         double range, std::uint32_t ignored, RayHit* out) const {
    for (std::int64_t i = 0; i < count; ++i) {
        const double* d = directions + 3 * i;
        const double t = meet_ground(origin, d, range);
        out[i] = {kNothing, 0.0F, 0, kSky, -1};
        if (t <= range)
            out[i] = {static_cast<float>(t), static_cast<float>(std::abs(d[2])), 0,
                      ground_class(origin[0] + t * d[0], origin[1] + t * d[1]), -1};
    }
    const Cone cone(directions, count);
    for (std::size_t b = 0; b < boxes_.size(); ++b) {
        const RayBox& box = boxes_[b];
        if (ignored != 0 && box.object == ignored) continue;
        const std::array<double, 3> offset{box.centre[0] - origin[0], box.centre[1] - origin[1],
                                           box.centre[2] - origin[2]};
        const double radius2 = dot(box.half, box.half.data());
        const double far2 = dot(offset, offset.data());
        if (!cone.may_meet(offset, std::sqrt(far2), std::sqrt(radius2), range)) continue;
        for (std::int64_t i = 0; i < count; ++i) {
            const double* d = directions + 3 * i;
            const double along = dot(offset, d);
            if (far2 > radius2 && (along < 0 || far2 - along * along > radius2)) continue;
            double distance = 0;
            int face = 0;
            const double nearest = std::min<double>(out[i].distance, range);
            if (!meet_box(box, offset, d, nearest, distance, face)) continue;
            const double* axis = &box.axes[3 * (face < 0 ? -1 - face : face)];
            const double cosine = std::abs(axis[0] * d[0] + axis[1] * d[1] + axis[2] * d[2]);
            out[i] = {static_cast<float>(distance), static_cast<float>(cosine), box.object, box.tag,
                      static_cast<std::int32_t>(b)};
        }
    }
}

void RayScene::cast(const std::array<double, 3>& origin, const double* directions, std::int64_t count,
                    double range, std::uint32_t ignored, RayHit* out) {
    const auto chunk = [&](std::int64_t part, int) {
        const std::int64_t first = part * kBundle;
        cast_some(origin, directions + 3 * first, std::min(kBundle, count - first), range, ignored,
                  out + first);
    };
    const std::int64_t chunks = (count + kBundle - 1) / kBundle;
    if (pool_.size() > 1) {
        pool_.run(chunks, chunk);
    } else {
        for (std::int64_t part = 0; part < chunks; ++part) chunk(part, 0);
    }
}

void RayScene::shade(const std::array<double, 3>& origin, const double* d, const RayHit& hit,
                     const Light& light, std::uint8_t* out) const {
    const double up = std::clamp(d[2], 0.0, 1.0);
    std::array<double, 3> sky{};
    for (int k = 0; k < 3; ++k)
        sky[k] = (kHorizon[k] + (kZenith[k] - kHorizon[k]) * up) * (0.15 + 0.85 * light.brightness);
    std::array<double, 3> color = sky;
    if (hit.distance < kNothing) {
        std::array<double, 3> normal{0, 0, 1};
        const auto& base =
            hit.box < 0 ? palette_[hit.tag & 31] : boxes_[static_cast<std::size_t>(hit.box)].color;
        if (hit.box >= 0) {  // the face whose plane the point lies in
            const RayBox& box = boxes_[static_cast<std::size_t>(hit.box)];
            double closest = std::numeric_limits<double>::infinity();
            for (int k = 0; k < 3; ++k) {
                const double* axis = &box.axes[3 * k];
                double place = 0;
                for (int c = 0; c < 3; ++c)
                    place += axis[c] * (origin[c] + hit.distance * d[c] - box.centre[c]);
                const double gap = std::abs(std::abs(place) - box.half[k]);
                if (gap >= closest) continue;
                closest = gap;
                for (int c = 0; c < 3; ++c) normal[c] = place > 0 ? axis[c] : -axis[c];
            }
        }
        const double lit = kAmbient + kDiffuse * std::max(0.0, dot(light.toward, normal.data()));
        const double clear = std::exp(-light.fog * hit.distance);
        for (int k = 0; k < 3; ++k)
            color[k] = base[k] * lit * (0.1 + 0.9 * light.brightness) * clear + sky[k] * (1 - clear);
    }
    for (int k = 0; k < 3; ++k) out[2 - k] = static_cast<std::uint8_t>(std::clamp(color[k], 0.0, 255.0));
    out[3] = 255;
}

void RayScene::draw(const std::array<double, 3>& origin, const std::array<double, 9>& axes,
                    std::int64_t width, std::int64_t height, double fov, Picture picture, const Light& light,
                    std::uint32_t ignored, std::uint8_t* out) {
    const double focal = 0.5 * static_cast<double>(width) / std::tan(0.5 * fov);
    const std::int64_t across = (width + kTile - 1) / kTile, down = (height + kTile - 1) / kTile;
    const auto tile = [&](std::int64_t number, int) {
        const std::int64_t top = number / across * kTile, left = number % across * kTile;
        const std::int64_t bottom = std::min(top + kTile, height), right = std::min(left + kTile, width);
        std::array<double, 3 * kTile * kTile> directions{};
        std::array<RayHit, kTile * kTile> hits{};
        std::int64_t count = 0;
        for (std::int64_t i = top; i < bottom; ++i) {
            const double v = (0.5 * static_cast<double>(height) - static_cast<double>(i) - 0.5) / focal;
            for (std::int64_t j = left; j < right; ++j, ++count) {
                const double u = (static_cast<double>(j) + 0.5 - 0.5 * static_cast<double>(width)) / focal;
                const double scale = 1.0 / std::sqrt(1.0 + u * u + v * v);
                for (int k = 0; k < 3; ++k)
                    directions[3 * count + k] = (axes[k] + u * axes[3 + k] + v * axes[6 + k]) * scale;
            }
        }
        cast_some(origin, directions.data(), count, kFarthest, ignored, hits.data());
        count = 0;
        for (std::int64_t i = top; i < bottom; ++i)
            for (std::int64_t j = left; j < right; ++j, ++count)
                paint(origin, axes, &directions[3 * count], hits[count], picture, light,
                      out + 4 * (i * width + j));
    };
    if (pool_.size() > 1) {
        pool_.run(across * down, tile);
    } else {
        for (std::int64_t number = 0; number < across * down; ++number) tile(number, 0);
    }
}

void RayScene::paint(const std::array<double, 3>& origin, const std::array<double, 9>& axes, const double* d,
                     const RayHit& hit, Picture picture, const Light& light, std::uint8_t* pixel) const {
    if (picture == Picture::kColor) {
        shade(origin, d, hit, light, pixel);
        return;
    }
    pixel[0] = pixel[1] = 0;
    pixel[2] = hit.tag;
    pixel[3] = 255;
    if (picture == Picture::kTags) return;
    const double along = axes[0] * d[0] + axes[1] * d[1] + axes[2] * d[2];
    const double depth = std::min(hit.distance * along / kFarthest, 1.0);
    const auto steps = static_cast<std::uint32_t>(depth * 16777215.0 + 0.5);
    for (int k = 0; k < 3; ++k) pixel[2 - k] = static_cast<std::uint8_t>(steps >> 8 * k & 255);
}

}  // namespace native
