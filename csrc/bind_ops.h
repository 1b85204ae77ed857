// Python functions of the registered ops, with names for their arguments. Part of bindings.cpp and of the shim's module.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "op.h"

namespace vz {

constexpr size_t kMaxArguments = 16;

// Reads one argument. `borrowed` keeps a tensor's memory alive for the call.
inline Value read_object(const Op& op, size_t i, PyObject* object, std::optional<Borrowed>& borrowed) {
  Value value;
  switch (op.kinds[i]) {
    case Kind::maybe:
      if (object == Py_None) break;
      [[fallthrough]];
    case Kind::tensor:
      borrowed.emplace(op.names[i].c_str(), object);
      value.view = &**borrowed;
      break;
    case Kind::number:
      value.number = PyFloat_AsDouble(object);
      break;
    case Kind::integer:
      value.integer = PyLong_AsLong(object);
      break;
    case Kind::flag:
      value.integer = PyObject_IsTrue(object);
      break;
  }
  if (PyErr_Occurred()) throw pybind11::error_already_set();
  return value;
}

template <size_t>
using Object = pybind11::handle;

// `cuda`: the op runs on the current stream of its first tensor and returns at once; the interpreter's lock is kept,
// because a launch takes a few microseconds. Else the lock is given away while the op runs.
template <size_t... I>
void bind_op(pybind11::module_& m, const Op& op, bool cuda, std::index_sequence<I...>) {
  const auto call = [&op, cuda](Object<I>... given) {
    const std::array<PyObject*, sizeof...(I)> objects = {given.ptr()...};
    std::array<std::optional<Borrowed>, sizeof...(I)> borrowed;
    const std::array<Value, sizeof...(I)> values = {read_object(op, I, objects[I], borrowed[I])...};
    if (!cuda) {
      const pybind11::gil_scoped_release release;
      return op.run(values.data(), nullptr);
    }
    size_t first = 0;
    while (!values[first].view) ++first;
    op.run(values.data(), current_stream(objects[first], values[first].view->device_id));
  };
  m.def(op.name.c_str(), call, pybind11::arg(op.names[I].c_str())...);
}

template <size_t kCount = 1>
void bind_op(pybind11::module_& m, const Op& op, bool cuda) {
  if (op.names.size() == kCount) return bind_op(m, op, cuda, std::make_index_sequence<kCount>());
  if constexpr (kCount < kMaxArguments) return bind_op<kCount + 1>(m, op, cuda);
  throw std::logic_error(op.name + " has more arguments than bind_ops.h binds");
}

// Defines a function for each op, and the tuple of their names, without `prefix`, as attribute `list`.
inline void bind_ops(pybind11::module_& m, const char* list, std::vector<Op>& ops, const std::string& prefix = "") {
  std::sort(ops.begin(), ops.end(), [](const Op& a, const Op& b) { return a.name < b.name; });
  pybind11::list names;
  for (const Op& op : ops) {
    bind_op(m, op, !prefix.empty());
    names.append(op.name.substr(prefix.size()));
  }
  m.attr(list) = pybind11::tuple(names);
}

inline void bind_cpu_ops(pybind11::module_& m) { bind_ops(m, "cpu_ops", cpu_ops()); }
inline void bind_cuda_ops(pybind11::module_& m) { bind_ops(m, "cuda_ops", cuda_ops(), "cuda_"); }

}  // namespace vz
