// Python functions of the registered ops, with names for their arguments. Part of bindings.cpp and of the shim's module.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cfloat>
#include <climits>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "op.h"

namespace vz {

constexpr size_t kMaxArguments = 16;

// Reads one argument; a tensor is only borrowed. May run Python code.
inline Value read_object(const Op& op, size_t i, PyObject* object, std::optional<Borrowed>& borrowed) {
  Value value;
  const char* const name = op.names[i].c_str();
  const Parameter parameter = op.parameters[i];
  switch (parameter.kind) {
    case Kind::tensor:
      if (!parameter.optional || object != Py_None) borrowed.emplace(name, object);
      break;
    case Kind::number:
      value.number = PyFloat_AsDouble(object);
      if (PyErr_Occurred()) throw pybind11::error_already_set();
      if (!(std::abs(value.number) <= FLT_MAX))
        throw BadArgument(std::string(name) + " must be a finite float32, got " + std::to_string(value.number));
      break;
    case Kind::integer: {
      int overflow = 0;
      const long integer = PyLong_AsLongAndOverflow(object, &overflow);
      if (PyErr_Occurred()) throw pybind11::error_already_set();
      if (overflow || integer < INT_MIN || integer > INT_MAX)
        throw BadArgument(std::string(name) + " must be an int of 32 bits");
      value.integer = static_cast<int>(integer);
      break;
    }
    case Kind::flag:
      if (!PyBool_Check(object)) throw pybind11::type_error(std::string(name) + " must be True or False");
      value.flag = object == Py_True;
      break;
  }
  return value;
}

#ifdef VZ_SHIM
constexpr Device kCudaDevice = Device::cpu;  // csrc/shim runs the CUDA ops on CPU tensors
#else
constexpr Device kCudaDevice = Device::cuda;
#endif

template <size_t>
using Object = pybind11::handle;

// `cuda`: the op runs on the current stream of its first tensor and returns at once; the interpreter's lock is kept,
// because a launch takes a few microseconds. Else the lock is given away while the op runs.
template <size_t... I>
void bind_op(pybind11::module_& m, const Op& op, bool cuda, std::index_sequence<I...>) {
  const auto call = [&op, cuda](Object<I>... given) {
    const std::array<PyObject*, sizeof...(I)> objects = {given.ptr()...};
    std::array<std::optional<Borrowed>, sizeof...(I)> borrowed;
    std::array<Value, sizeof...(I)> values = {read_object(op, I, objects[I], borrowed[I])...};
    std::array<Given, sizeof...(I)> tensors;
    int count = 0;
    PyObject* first = nullptr;
    for (size_t i = 0; i < sizeof...(I); ++i) {
      if (!borrowed[i]) continue;
      values[i].view = &borrowed[i]->read();
      tensors[count++] = {op.names[i].c_str(), values[i].view, op.parameters[i].written};
      if (!first) first = objects[i];
    }
    check_call(tensors.data(), count, cuda ? kCudaDevice : Device::cpu);
    if (cuda) return op.run(values.data(), current_stream(first, tensors[0].view->device_id));
    const pybind11::gil_scoped_release release;
    op.run(values.data(), nullptr);
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
