// Python objects -> views for the CUDA ops; part of bindings.cpp, and of the shim's module, which runs the same code.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "cuda/ops.h"
#include "tensor_view.h"

namespace vz {

// A tensor that may be None.
class MaybeBorrowed {
 public:
  MaybeBorrowed(const char* name, pybind11::handle object) {
    if (!object.is_none()) borrowed_ = std::make_unique<Borrowed>(name, object.ptr());
  }
  const View* get() const { return borrowed_ ? &**borrowed_ : nullptr; }

 private:
  std::unique_ptr<Borrowed> borrowed_;
};

// Defines cuda_<op> for each op, and the tuple cuda_ops. Everything is asynchronous on the current stream of the tensor
// that comes first; the interpreter's lock is kept, because a launch takes a few microseconds.
inline void bind_cuda(pybind11::module_& m) {
  namespace py = pybind11;
  using py::handle;
  const auto stream_of = [](handle tensor, const Borrowed& view) { return current_stream(tensor.ptr(), view->device_id); };

  m.def("cuda_mrope_append", [=](handle q, handle k, handle v, handle cos, handle sin, handle k_pages, handle v_pages,
                                 handle slots) {
    const Borrowed a("q", q.ptr()), b("k", k.ptr()), c("v", v.ptr()), d("cos", cos.ptr()), e("sin", sin.ptr()),
        f("k_pages", k_pages.ptr()), g("v_pages", v_pages.ptr()), h("slots", slots.ptr());
    gpu::mrope_append(*a, *b, *c, *d, *e, *f, *g, *h, stream_of(q, a));
  });
  m.def("cuda_copy_blocks", [=](handle k_pages, handle v_pages, handle sources, handle targets) {
    const Borrowed k("k_pages", k_pages.ptr()), v("v_pages", v_pages.ptr()), s("sources", sources.ptr()),
        t("targets", targets.ptr());
    gpu::copy_blocks(*k, *v, *s, *t, stream_of(k_pages, k));
  });
  m.def("cuda_splice_move", [=](handle k_pages, handle v_pages, handle sources, handle targets, handle cos, handle sin) {
    const Borrowed k("k_pages", k_pages.ptr()), v("v_pages", v_pages.ptr()), s("sources", sources.ptr()),
        t("targets", targets.ptr());
    const MaybeBorrowed c("cos", cos), n("sin", sin);
    gpu::splice_move(*k, *v, *s, *t, c.get(), n.get(), stream_of(k_pages, k));
  });
  m.def("cuda_merge_states", [=](handle out_a, handle lse_a, handle out_b, handle lse_b, handle out, handle lse) {
    const Borrowed a("out_a", out_a.ptr()), b("lse_a", lse_a.ptr()), c("out_b", out_b.ptr()), d("lse_b", lse_b.ptr()),
        o("out", out.ptr());
    const MaybeBorrowed l("lse", lse);
    gpu::merge_states(*a, *b, *c, *d, *o, l.get(), stream_of(out_a, a));
  });
  m.def("cuda_paged_attention", [=](handle q, handle k_pages, handle v_pages, handle block_table, handle kv_lens,
                                    handle cu_seqlens_q, handle out, handle lse, double scale, bool causal,
                                    handle part_out, handle part_lse) {
    const Borrowed a("q", q.ptr()), b("k_pages", k_pages.ptr()), c("v_pages", v_pages.ptr()),
        d("block_table", block_table.ptr()), e("kv_lens", kv_lens.ptr()), f("cu_seqlens_q", cu_seqlens_q.ptr()),
        o("out", out.ptr());
    const MaybeBorrowed l("lse", lse), po("part_out", part_out), pl("part_lse", part_lse);
    gpu::paged_attention(*a, *b, *c, *d, *e, *f, *o, l.get(), scale, causal, po.get(), pl.get(), stream_of(q, a));
  });
  // table None: uint8 frames come out. x and y: (first, weights, span).
  m.def("cuda_resize", [=](handle frames, handle table, handle out, const py::tuple& x, const py::tuple& y,
                           bool vertical_first, int patch, int merge, int temporal, int tile) {
    const Borrowed f("frames", frames.ptr()), o("out", out.ptr());
    const MaybeBorrowed t("table", table);
    const Borrowed xf("x first", py::object(x[0]).ptr()), xw("x weights", py::object(x[1]).ptr()),
        yf("y first", py::object(y[0]).ptr()), yw("y weights", py::object(y[1]).ptr());
    gpu::resize(*f, t.get(), *o, {*xf, *xw, x[2].cast<int>()}, {*yf, *yw, y[2].cast<int>()}, vertical_first, patch,
                merge, temporal, tile, stream_of(frames, f));
  });
  m.attr("cuda_ops") = py::make_tuple("mrope_append", "paged_attention", "frames_to_patches", "copy_blocks",
                                      "splice_move", "merge_states");
}

}  // namespace vz
