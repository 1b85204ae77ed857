// The extension's module. With bind_ops.h the only code that knows pybind11: Python objects -> views and numbers.

#include <pybind11/pybind11.h>

#include "bind_ops.h"
#include "cpu/frames_to_patches.h"
#include "cpu/isa.h"

namespace py = pybind11;
using vz::Borrowed;

namespace {

// Arrays of the weights: first [out] and weights [out, taps] int32 of a pass.
vz::OwnedPass read_pass(int in_size, const py::object& first, const py::object& weights, bool horizontal) {
  const Borrowed f("first", first.ptr()), w("weights", weights.ptr());
  return vz::make_pass(in_size, *f, *w, horizontal);
}

// The one op whose C++ takes more than tensors and numbers: a plan, made once per size of frames.
void bind_frames(py::module_& m) {
  py::class_<vz::Plan>(m, "FramePlan", "How frames of one size are resized, packed for this CPU.")
      .def(py::init([](int in_height, int in_width) {
             vz::Plan plan;
             plan.in_height = in_height;
             plan.in_width = in_width;
             return plan;
           }),
           py::arg("in_height"), py::arg("in_width"))
      .def(
          "add_step",
          [](vz::Plan& plan, const py::object& h_first, const py::object& h_weights, const py::object& v_first,
             const py::object& v_weights, bool vertical_first) {
            vz::Step step;
            const int width = plan.out_width(), height = plan.out_height();
            step.horizontal = read_pass(width, h_first, h_weights, true);
            step.vertical = read_pass(height, v_first, v_weights, false);
            step.vertical_first = vertical_first;
            plan.steps.push_back(std::move(step));
          },
          py::arg("h_first"), py::arg("h_weights"), py::arg("v_first"), py::arg("v_weights"), py::arg("vertical_first"));
  m.def(
      "frames_to_patches",
      [](const vz::Plan& plan, py::handle frames, py::handle table, py::handle out, int patch, int merge,
         int temporal) {
        const Borrowed f("frames", frames.ptr()), t("table", table.ptr()), o("out", out.ptr());
        const py::gil_scoped_release release;
        vz::frames_to_patches(plan, *f, *t, *o, patch, merge, temporal);
      },
      py::arg("plan"), py::arg("frames"), py::arg("table"), py::arg("out"), py::arg("patch"), py::arg("merge"),
      py::arg("temporal"));
  m.def(
      "resize_frames",
      [](const vz::Plan& plan, py::handle frames, py::handle out) {
        const Borrowed f("frames", frames.ptr()), o("out", out.ptr());
        const py::gil_scoped_release release;
        vz::resize_frames(plan, *f, *o);
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
