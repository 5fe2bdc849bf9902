#include "native/ray_scene.h"

#include <algorithm>

#include "arrays.h"
#include "bindings.h"

namespace py = pybind11;
using namespace native;

namespace {

template <std::size_t N>
std::array<double, N> numbers(const InputArray<double>& array, const char* name) {
    if (static_cast<std::size_t>(array.size()) != N)
        throw std::invalid_argument(std::string(name) + " must have " + std::to_string(N) + " numbers, not " +
                                    std::to_string(array.size()));
    std::array<double, N> values{};
    std::copy_n(array.data(), N, values.begin());
    return values;
}

class Scene {
  public:
    Scene(const InputArray<std::uint8_t>& classes, const InputArray<double>& corner, double cell,
          std::uint8_t outside, const InputArray<float>& heights, double height_cell,
          const InputArray<std::uint8_t>& palette, int threads)
        : kernel_(ground(classes, corner, cell, outside, heights, height_cell), colors(palette), threads) {}

    // boxes: centre, half sizes and axes; labels: object and tag; colors.
    void set_boxes(const InputArray<double>& boxes, const InputArray<std::uint32_t>& labels,
                   const InputArray<std::uint8_t>& colors) {
        check_shape(boxes, "boxes", {-1, 15});
        check_shape(labels, "labels", {boxes.shape(0), 2});
        check_shape(colors, "colors", {boxes.shape(0), 3});
        std::vector<RayBox> all(static_cast<std::size_t>(boxes.shape(0)));
        for (std::size_t i = 0; i < all.size(); ++i) {
            const double* values = boxes.data() + 15 * i;
            std::copy_n(values, 3, all[i].centre.begin());
            std::copy_n(values + 3, 3, all[i].half.begin());
            std::copy_n(values + 6, 9, all[i].axes.begin());
            all[i].object = labels.data()[2 * i];
            all[i].tag = static_cast<std::uint8_t>(labels.data()[2 * i + 1]);
            std::copy_n(colors.data() + 3 * i, 3, all[i].color.begin());
        }
        kernel_.set_boxes(std::move(all));
    }

    py::tuple cast(const InputArray<double>& origin, const InputArray<double>& directions, double range,
                   std::uint32_t ignored) {
        check_shape(directions, "directions", {-1, 3});
        if (!(range > 0)) throw std::invalid_argument("range must be positive, not " + std::to_string(range));
        const auto from = numbers<3>(origin, "origin");
        const py::ssize_t count = directions.shape(0);
        auto distance = make_output<float>({count});
        auto cosine = make_output<float>({count});
        auto object = make_output<std::uint32_t>({count});
        auto tag = make_output<std::uint8_t>({count});
        {
            py::gil_scoped_release release;
            std::vector<RayHit> hits(static_cast<std::size_t>(count));
            kernel_.cast(from, directions.data(), count, range, ignored, hits.data());
            for (py::ssize_t i = 0; i < count; ++i) {
                distance.mutable_data()[i] = hits[i].distance;
                cosine.mutable_data()[i] = hits[i].cosine;
                object.mutable_data()[i] = hits[i].object;
                tag.mutable_data()[i] = hits[i].tag;
            }
        }
        return py::make_tuple(distance, tag, object, cosine);
    }

    py::array_t<std::uint8_t> draw(const InputArray<double>& origin, const InputArray<double>& axes,
                                   std::int64_t width, std::int64_t height, double fov,
                                   const std::string& kind, const InputArray<double>& light,
                                   std::uint32_t ignored) {
        if (width < 1 || height < 1 || width * height > (1 << 26))
            throw std::invalid_argument("a picture must have pixels, at most 2^26, not " +
                                        std::to_string(width) + " x " + std::to_string(height));
        if (!(fov > 0 && fov < 3.1415))
            throw std::invalid_argument("fov must lie in (0, pi), not " + std::to_string(fov));
        const auto from = numbers<3>(origin, "origin");
        const auto frame = numbers<9>(axes, "axes");
        const auto sun = numbers<5>(light, "light");
        const Light look{{sun[0], sun[1], sun[2]}, sun[3], sun[4]};
        const Picture picture =
            kind == "color"   ? Picture::kColor
            : kind == "tags"  ? Picture::kTags
            : kind == "depth" ? Picture::kDepth
                              : throw std::invalid_argument("kind must be color, tags or depth, not " + kind);
        auto out = make_output<std::uint8_t>({height, width, 4});
        std::uint8_t* pixels = out.mutable_data();
        {
            py::gil_scoped_release release;
            kernel_.draw(from, frame, width, height, fov, picture, look, ignored, pixels);
        }
        return out;
    }

  private:
    static Ground ground(const InputArray<std::uint8_t>& classes, const InputArray<double>& corner,
                         double cell, std::uint8_t outside, const InputArray<float>& heights,
                         double height_cell) {
        check_shape(classes, "classes", {-1, -1});
        check_shape(heights, "heights", {-1, -1});
        const auto [x, y] = numbers<2>(corner, "corner");
        return {{classes.data(), classes.data() + classes.size()},
                classes.shape(0),
                classes.shape(1),
                x,
                y,
                cell,
                outside,
                {heights.data(), heights.data() + heights.size()},
                heights.shape(0),
                heights.shape(1),
                height_cell};
    }

    static std::array<std::array<std::uint8_t, 3>, 32> colors(const InputArray<std::uint8_t>& palette) {
        check_shape(palette, "palette", {32, 3});
        std::array<std::array<std::uint8_t, 3>, 32> all{};
        for (std::size_t i = 0; i < all.size(); ++i) std::copy_n(palette.data() + 3 * i, 3, all[i].begin());
        return all;
    }

    RayScene kernel_;
};

}  // namespace

void init_ray_scene(py::module_& m) {
    py::class_<Scene>(m, "RayScene", "Ground and boxes into which rays are cast.")
        .def(py::init<const InputArray<std::uint8_t>&, const InputArray<double>&, double, std::uint8_t,
                      const InputArray<float>&, double, const InputArray<std::uint8_t>&, int>(),
             py::arg("classes").noconvert(), py::arg("corner").noconvert(), py::arg("cell"),
             py::arg("outside"), py::arg("heights").noconvert(), py::arg("height_cell"),
             py::arg("palette").noconvert(), py::arg("threads") = 1)
        .def("set_boxes", &Scene::set_boxes, py::arg("boxes").noconvert(), py::arg("labels").noconvert(),
             py::arg("colors").noconvert())
        .def("cast", &Scene::cast, py::arg("origin").noconvert(), py::arg("directions").noconvert(),
             py::arg("range"), py::arg("ignored") = 0U)
        .def("draw", &Scene::draw, py::arg("origin").noconvert(), py::arg("axes").noconvert(),
             py::arg("width"), py::arg("height"), py::arg("fov"), py::arg("kind"),
             py::arg("light").noconvert(), py::arg("ignored") = 0U);
}
