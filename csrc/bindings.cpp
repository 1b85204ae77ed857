// The extension's module. With bind_ops.h the only code that knows pybind11: Python objects -> views and numbers.

#include <pybind11/pybind11.h>

#include "bind_ops.h"
#include "cpu/frames_to_patches.h"
#include "cpu/isa.h"

namespace py = pybind11;
using vz::Borrowed;
using vz::Device;
using vz::Given;

namespace {

// Arrays of the weights of one step: first [out] and weights [out, taps] int32 of each axis.
vz::Step read_step(const vz::Plan& plan, py::handle given) {
  constexpr const char* kWhat = "a step is a tuple (h_first, h_weights, v_first, v_weights, vertical_first)";
  if (!py::isinstance<py::tuple>(given) || py::len(given) != 5) throw py::type_error(kWhat);
  const auto step = py::reinterpret_borrow<py::tuple>(given);
  const py::object vertical_first = step[4];
  if (!PyBool_Check(vertical_first.ptr())) throw py::type_error(kWhat);
  const py::object of_step[] = {step[0], step[1], step[2], step[3]};
  Borrowed h_first("h_first", of_step[0].ptr()), h_weights("h_weights", of_step[1].ptr()),
      v_first("v_first", of_step[2].ptr()), v_weights("v_weights", of_step[3].ptr());
  const Given arrays[] = {{"h_first", &h_first.read(), false}, {"h_weights", &h_weights.read(), false},
                          {"v_first", &v_first.read(), false}, {"v_weights", &v_weights.read(), false}};
  vz::check_call(arrays, 4, Device::cpu);
  vz::Step made;
  made.horizontal = vz::make_pass(plan.out_width(), *arrays[0].view, *arrays[1].view, true);
  made.vertical = vz::make_pass(plan.out_height(), *arrays[2].view, *arrays[3].view, false);
  made.vertical_first = vertical_first.ptr() == Py_True;
  return made;
}

// An object of the class that was made by __new__ alone holds no plan, and pybind11 would lend memory that nobody wrote.
const vz::Plan& read_plan(py::handle given) {
  if (!py::isinstance<vz::Plan>(given)) throw py::type_error("plan must be a FramePlan");
  if (!reinterpret_cast<py::detail::instance*>(given.ptr())->get_value_and_holder().holder_constructed())
    throw py::type_error("plan was never initialised: make it by FramePlan(in_height, in_width, steps)");
  return *given.cast<const vz::Plan*>();
}

// The one op whose C++ takes more than tensors and numbers: a plan, made once per size of frames.
void bind_frames(py::module_& m) {
  py::class_<vz::Plan>(m, "FramePlan", "How frames of one size are resized, packed for this CPU.")
      .def(py::init([](int in_height, int in_width, const py::sequence& steps) {
             vz::Plan plan(in_height, in_width);
             for (const py::handle step : steps) plan.add_step(read_step(plan, step));
             return plan;
           }),
           py::arg("in_height"), py::arg("in_width"), py::arg("steps"));
  m.def(
      "frames_to_patches",
      [](py::handle plan, py::handle frames, py::handle table, py::handle out, int patch, int merge, int temporal) {
        const vz::Plan& of_size = read_plan(plan);
        Borrowed f("frames", frames.ptr()), t("table", table.ptr()), o("out", out.ptr());
        const Given tensors[] = {{"frames", &f.read(), false}, {"table", &t.read(), false}, {"out", &o.read(), true}};
        vz::check_call(tensors, 3, Device::cpu);
        const py::gil_scoped_release release;
        vz::frames_to_patches(of_size, *tensors[0].view, *tensors[1].view, *tensors[2].view, patch, merge, temporal);
      },
      py::arg("plan"), py::arg("frames"), py::arg("table"), py::arg("out"), py::arg("patch"), py::arg("merge"),
      py::arg("temporal"));
  m.def(
      "resize_frames",
      [](py::handle plan, py::handle frames, py::handle out) {
        const vz::Plan& of_size = read_plan(plan);
        Borrowed f("frames", frames.ptr()), o("out", out.ptr());
        const Given tensors[] = {{"frames", &f.read(), false}, {"out", &o.read(), true}};
        vz::check_call(tensors, 2, Device::cpu);
        const py::gil_scoped_release release;
        vz::resize_frames(of_size, *tensors[0].view, *tensors[1].view);
      },
      py::arg("plan"), py::arg("frames"), py::arg("out"));
  m.attr("cpu_ops") = py::object(m.attr("cpu_ops")) + py::object(py::make_tuple("frames_to_patches"));
}

}  // namespace

PYBIND11_MODULE(_vzoom, m) {
  m.doc() = "C++ and CUDA implementations of vzoom's kernels; use them through vzoom.kernels.";
  m.attr("__version__") = VZOOM_VERSION;
  py::register_local_exception<vz::BadArgument>(m, "BadArgument", PyExc_ValueError);
  m.def("isa", &vz::isa_name, "The instruction set in use: scalar, avx2, avx512 or avx512bf16.");
  m.def("set_isa", &vz::set_isa, "Use another instruction set: auto, scalar, avx2, avx512 or avx512bf16; for tests.", py::arg("name"));
  vz::bind_cpu_ops(m);
  bind_frames(m);
  vz::bind_cuda_ops(m);  // none if the extension is built without CUDA
}
