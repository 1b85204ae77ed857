// The only file that knows pybind11: Python objects -> views and numbers.

#include <pybind11/pybind11.h>

#include <memory>

#ifdef VZOOM_CUDA
#include "bindings_cuda.h"
#endif
#include "cpu/attention.h"
#include "cpu/dense.h"
#include "cpu/frames_to_patches.h"
#include "cpu/isa.h"
#include "cpu/move.h"
#include "cpu/threads.h"
#include "tensor_view.h"

namespace py = pybind11;
using vz::Borrowed;

namespace {

// Arrays of the weights: first [out] and weights [out, taps] int32 of a pass.
vz::OwnedPass read_pass(int in_size, const py::object& first, const py::object& weights, bool horizontal) {
  const Borrowed f("first", first.ptr()), w("weights", weights.ptr());
  return vz::make_pass(in_size, *f, *w, horizontal);
}

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
  m.def("frames_to_patches", [](const vz::Plan& plan, py::handle frames, py::handle table, py::handle out, int patch,
                                int merge, int temporal) {
    const Borrowed f("frames", frames.ptr()), t("table", table.ptr()), o("out", out.ptr());
    const py::gil_scoped_release release;
    vz::frames_to_patches(plan, *f, *t, *o, patch, merge, temporal);
  });
  m.def("resize_frames", [](const vz::Plan& plan, py::handle frames, py::handle out) {
    const Borrowed f("frames", frames.ptr()), o("out", out.ptr());
    const py::gil_scoped_release release;
    vz::resize_frames(plan, *f, *o);
  });
}

// A tensor that may be None.
class Maybe {
 public:
  Maybe(const char* name, py::handle object) {
    if (!object.is_none()) borrowed_ = std::make_unique<Borrowed>(name, object.ptr());
  }
  const vz::View* get() const { return borrowed_ ? &**borrowed_ : nullptr; }

 private:
  std::unique_ptr<Borrowed> borrowed_;
};

void bind_moves(py::module_& m) {
  m.def("mrope_append", [](py::handle q, py::handle k, py::handle v, py::handle cos, py::handle sin, py::handle k_pages,
                           py::handle v_pages, py::handle slots) {
    const Borrowed a("q", q.ptr()), b("k", k.ptr()), c("v", v.ptr()), d("cos", cos.ptr()), e("sin", sin.ptr()),
        f("k_pages", k_pages.ptr()), g("v_pages", v_pages.ptr()), h("slots", slots.ptr());
    const py::gil_scoped_release release;
    vz::mrope_append(*a, *b, *c, *d, *e, *f, *g, *h);
  });
  m.def("copy_blocks", [](py::handle k_pages, py::handle v_pages, py::handle sources, py::handle targets) {
    const Borrowed k("k_pages", k_pages.ptr()), v("v_pages", v_pages.ptr()), s("sources", sources.ptr()),
        t("targets", targets.ptr());
    const py::gil_scoped_release release;
    vz::copy_blocks(*k, *v, *s, *t);
  });
  m.def("splice_move", [](py::handle k_pages, py::handle v_pages, py::handle sources, py::handle targets,
                          py::handle cos, py::handle sin) {
    const Borrowed k("k_pages", k_pages.ptr()), v("v_pages", v_pages.ptr()), s("sources", sources.ptr()),
        t("targets", targets.ptr());
    const Maybe c("cos", cos), n("sin", sin);
    const py::gil_scoped_release release;
    vz::splice_move(*k, *v, *s, *t, c.get(), n.get());
  });
  m.def("merge_states", [](py::handle out_a, py::handle lse_a, py::handle out_b, py::handle lse_b, py::handle out,
                           py::handle lse) {
    const Borrowed a("out_a", out_a.ptr()), b("lse_a", lse_a.ptr()), c("out_b", out_b.ptr()), d("lse_b", lse_b.ptr()),
        o("out", out.ptr());
    const Maybe l("lse", lse);
    const py::gil_scoped_release release;
    vz::merge_states(*a, *b, *c, *d, *o, l.get());
  });
}

void bind_attention(py::module_& m) {
  m.def("paged_attention", [](py::handle q, py::handle k_pages, py::handle v_pages, py::handle block_table,
                              py::handle kv_lens, py::handle cu_seqlens_q, py::handle out, py::handle lse, double scale,
                              bool causal) {
    const Borrowed a("q", q.ptr()), b("k_pages", k_pages.ptr()), c("v_pages", v_pages.ptr()),
        d("block_table", block_table.ptr()), e("kv_lens", kv_lens.ptr()), f("cu_seqlens_q", cu_seqlens_q.ptr()),
        o("out", out.ptr());
    const Maybe l("lse", lse);
    const py::gil_scoped_release release;
    vz::paged_attention(*a, *b, *c, *d, *e, *f, *o, l.get(), scale, causal);
  });
}

void bind_dense(py::module_& m) {
  m.def("linear", [](py::handle x, py::handle weight, py::handle bias, py::handle gate, py::handle gate_bias,
                     py::handle add, py::handle out) {
    const Borrowed a("x", x.ptr()), w("weight", weight.ptr()), o("out", out.ptr());
    const Maybe b("bias", bias), g("gate", gate), c("gate_bias", gate_bias), d("add", add);
    const py::gil_scoped_release release;
    vz::linear(*a, *w, b.get(), g.get(), c.get(), d.get(), *o);
  });
  m.def("rms_norm", [](py::handle x, py::handle weight, double epsilon, py::handle out) {
    const Borrowed a("x", x.ptr()), w("weight", weight.ptr()), o("out", out.ptr());
    const py::gil_scoped_release release;
    vz::rms_norm(*a, *w, epsilon, *o);
  });
  m.def("silu_mul", [](py::handle gate, py::handle up) {
    const Borrowed g("gate", gate.ptr()), u("up", up.ptr());
    const py::gil_scoped_release release;
    vz::silu_mul(*g, *u);
  });
}

}  // namespace

PYBIND11_MODULE(_vzoom, m) {
  m.doc() = "C++ and CUDA implementations of vzoom's kernels; use them through vzoom.kernels.";
  m.attr("__version__") = VZOOM_VERSION;
  py::register_local_exception<vz::BadArgument>(m, "BadArgument", PyExc_ValueError);
  m.def("isa", &vz::isa_name, "The instruction set in use: scalar, avx2, avx512 or avx512bf16.");
  m.def("set_isa", &vz::set_isa, "Use another instruction set, or auto; for tests.");
  m.def("num_threads", &vz::threads);
  bind_frames(m);
  bind_moves(m);
  bind_attention(m);
  bind_dense(m);
  m.attr("cpu_ops") = py::make_tuple("frames_to_patches", "mrope_append", "paged_attention", "copy_blocks", "splice_move", "merge_states",
                                    "linear", "rms_norm", "silu_mul");
#ifdef VZOOM_CUDA
  vz::bind_cuda(m);
#else
  m.attr("cuda_ops") = py::make_tuple();
#endif
}
