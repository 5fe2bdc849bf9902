#include <pybind11/stl.h>

#include "arrays.h"
#include "bindings.h"
#include "native/lanes.h"
#include "native/traffic.h"
#include "native/vehicles.h"

namespace py = pybind11;
using namespace native;

namespace {

using Table = py::array_t<double, py::array::c_style>;

VehicleTable view(Table& table, std::int64_t count) {
    check_shape(table, "table", {kColumns, -1});
    if (!table.writeable()) throw std::invalid_argument("table must be writeable");
    if (count < 0 || count > table.shape(1))
        throw std::invalid_argument("count must lie in [0, " + std::to_string(table.shape(1)) + "], not " +
                                    std::to_string(count));
    return {table.mutable_data(), table.shape(1), count};
}

void step(Table table, std::int64_t count, double seconds) {
    const VehicleTable vehicles = view(table, count);
    if (!(seconds > 0))
        throw std::invalid_argument("seconds must be positive, not " + std::to_string(seconds));
    py::gil_scoped_release release;
    step_vehicles(vehicles, seconds);
}

template <class T>
std::vector<T> copy(const InputArray<T>& array, const char* name) {
    check_shape(array, name, {-1});
    return {array.data(), array.data() + array.size()};
}

class PyTraffic {
  public:
    PyTraffic(const InputArray<double>& points, const InputArray<std::int64_t>& first,
              const InputArray<std::int64_t>& next_first, const InputArray<std::int64_t>& next,
              const InputArray<std::int64_t>& left, const InputArray<std::int64_t>& right,
              const InputArray<std::int64_t>& junction, const InputArray<double>& limit,
              const InputArray<std::int64_t>& gate)
        : kernel_(network(points, first, next_first, next, left, right, junction, limit, gate)) {}

    void step(Table table, std::int64_t count, const InputArray<std::int64_t>& rows,
              const InputArray<std::int64_t>& points, const InputArray<double>& obstacles,
              const InputArray<std::uint8_t>& is_green, double seconds) {
        const VehicleTable vehicles = view(table, count);
        check_shape(rows, "rows", {kernel_.size()});
        check_shape(points, "points", {count});
        check_shape(obstacles, "obstacles", {-1, 5});
        std::vector<Obstacle> things;
        for (py::ssize_t i = 0; i < obstacles.shape(0); ++i) {
            const double* o = obstacles.data() + 5 * i;
            things.push_back({o[0], o[1], o[2], o[3], o[4]});
        }
        const std::vector<std::uint8_t> green = copy(is_green, "is_green");
        py::gil_scoped_release release;
        kernel_.step(vehicles, rows.data(), points.data(), things, green, seconds);
    }

    py::array_t<std::int64_t> nearest(const InputArray<double>& x, const InputArray<double>& y,
                                      const InputArray<double>& yaw, bool use_yaw) const {
        check_shape(x, "x", {-1});
        check_shape(y, "y", {x.size()});
        check_shape(yaw, "yaw", {x.size()});
        auto found = make_output<std::int64_t>({x.size()});
        std::int64_t* out = found.mutable_data();
        {
            py::gil_scoped_release release;
            for (py::ssize_t i = 0; i < x.size(); ++i)
                out[i] = kernel_.grid().nearest(x.data()[i], y.data()[i], yaw.data()[i], use_yaw);
        }
        return found;
    }

    Traffic& kernel() { return kernel_; }

  private:
    static LaneNetwork network(const InputArray<double>& points, const InputArray<std::int64_t>& first,
                               const InputArray<std::int64_t>& next_first,
                               const InputArray<std::int64_t>& next, const InputArray<std::int64_t>& left,
                               const InputArray<std::int64_t>& right,
                               const InputArray<std::int64_t>& junction, const InputArray<double>& limit,
                               const InputArray<std::int64_t>& gate) {
        check_shape(points, "points", {-1, 3});
        LaneNetwork n;
        for (py::ssize_t i = 0; i < points.shape(0); ++i) {
            n.x.push_back(points.data()[3 * i]);
            n.y.push_back(points.data()[3 * i + 1]);
            n.yaw.push_back(points.data()[3 * i + 2]);
        }
        n.first = copy(first, "first");
        n.next_first = copy(next_first, "next_first");
        n.next = copy(next, "next");
        n.left = copy(left, "left");
        n.right = copy(right, "right");
        n.junction = copy(junction, "junction");
        n.limit = copy(limit, "limit");
        n.gate = copy(gate, "gate");
        return n;
    }

    Traffic kernel_;
};

}  // namespace

void init_driving(py::module_& m) {
    py::tuple columns(vehicle_columns.size());
    for (std::size_t i = 0; i < vehicle_columns.size(); ++i) columns[i] = std::string(vehicle_columns[i]);
    m.attr("vehicle_columns") = columns;
    py::list curve;
    for (const CurvePoint& point : kSteeringCurve) curve.append(py::make_tuple(point.speed, point.share));
    m.attr("steering_curve") = py::tuple(curve);
    m.def("step_vehicles", &step, py::arg("table").noconvert(), py::arg("count"), py::arg("seconds"));
    py::class_<PyTraffic>(m, "Traffic", "Rule-based drivers on a lane network.")
        .def(py::init<const InputArray<double>&, const InputArray<std::int64_t>&,
                      const InputArray<std::int64_t>&, const InputArray<std::int64_t>&,
                      const InputArray<std::int64_t>&, const InputArray<std::int64_t>&,
                      const InputArray<std::int64_t>&, const InputArray<double>&,
                      const InputArray<std::int64_t>&>(),
             py::arg("points").noconvert(), py::arg("first").noconvert(), py::arg("next_first").noconvert(),
             py::arg("next").noconvert(), py::arg("left").noconvert(), py::arg("right").noconvert(),
             py::arg("junction").noconvert(), py::arg("limit").noconvert(), py::arg("gate").noconvert())
        .def(
            "add",
            [](PyTraffic& self, std::int64_t number, std::uint64_t seed) { self.kernel().add(number, seed); },
            py::arg("number"), py::arg("seed"))
        .def(
            "remove", [](PyTraffic& self, std::int64_t number) { return self.kernel().remove(number); },
            py::arg("number"))
        .def("__len__", [](PyTraffic& self) { return self.kernel().size(); })
        .def("step", &PyTraffic::step, py::arg("table").noconvert(), py::arg("count"),
             py::arg("rows").noconvert(), py::arg("points").noconvert(), py::arg("obstacles").noconvert(),
             py::arg("is_green").noconvert(), py::arg("seconds"))
        .def("nearest", &PyTraffic::nearest, py::arg("x").noconvert(), py::arg("y").noconvert(),
             py::arg("yaw").noconvert(), py::arg("use_yaw"));
}
