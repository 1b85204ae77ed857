// How an op of C++ or CUDA C++ is declared and found: a struct of its arguments, a function that takes it, and one line
// that registers both, all in the op's own files. bind_ops.h makes Python functions of what is registered.
//
//   struct Scale {                             // ops/scale.h
//     View x;
//     double factor;
//     Out out;                                 // what is written is Out or MaybeOut
//     VZ_ARGUMENTS(x, factor, out)             // once more, in the order of kernels/scale/reference.py
//   };
//   void scale(const Scale& a) { ... }         // cpu/scale.cpp
//   VZ_CPU_OP("scale", Scale, scale)
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tensor_view.h"

namespace vz {

struct Out : View {};                    // a tensor that is written
using Maybe = std::optional<View>;      // a tensor that may be None
using MaybeOut = std::optional<Out>;

enum class Kind { tensor, number, integer, flag };

// One kind for each type that a field of arguments may have, and how it is read.
struct Parameter {
  Kind kind;
  bool optional = false, written = false;
};
inline Parameter parameter_of(const View&) { return {Kind::tensor}; }
inline Parameter parameter_of(const Out&) { return {Kind::tensor, false, true}; }
inline Parameter parameter_of(const Maybe&) { return {Kind::tensor, true}; }
inline Parameter parameter_of(const MaybeOut&) { return {Kind::tensor, true, true}; }
inline Parameter parameter_of(double) { return {Kind::number}; }
inline Parameter parameter_of(int) { return {Kind::integer}; }
inline Parameter parameter_of(bool) { return {Kind::flag}; }

// What Python gave for one argument.
struct Value {
  const View* view = nullptr;  // of a tensor; null for None
  double number = 0;           // finite, as a float32 too
  int integer = 0;
  bool flag = false;
};
inline void read(const Value& from, View& to) { to = *from.view; }
inline void read(const Value& from, Maybe& to) {
  if (from.view) to = *from.view;
}
inline void read(const Value& from, MaybeOut& to) {
  if (from.view) read(from, to.emplace());
}
inline void read(const Value& from, double& to) { to = from.number; }
inline void read(const Value& from, int& to) { to = from.integer; }
inline void read(const Value& from, bool& to) { to = from.flag; }

struct Op {
  std::string name;                // as Python calls the function
  std::vector<std::string> names;  // of the arguments
  std::vector<Parameter> parameters;
  void (*run)(const Value* values, void* stream);
};

// What the op's files have registered.
inline std::vector<Op>& cpu_ops() {
  static std::vector<Op> ops;
  return ops;
}
inline std::vector<Op>& cuda_ops() {
  static std::vector<Op> ops;
  return ops;
}

// Names the fields of a struct of arguments. A struct that adds arguments to another's uses VZ_MORE_ARGUMENTS.
#define VZ_ARGUMENTS(...)                                 \
  static std::string names() { return #__VA_ARGS__; }     \
  auto fields() { return std::tie(__VA_ARGS__); }
#define VZ_MORE_ARGUMENTS(Base, ...)                                              \
  static std::string names() { return Base::names() + ", " #__VA_ARGS__; }        \
  auto fields() { return std::tuple_cat(Base::fields(), std::tie(__VA_ARGS__)); }

template <class Arguments>
Arguments read_arguments(const Value* values) {
  Arguments a{};
  std::apply([&](auto&... field) { (read(*values++, field), ...); }, a.fields());
  return a;
}

template <class Arguments>
Op make_op(const char* name, void (*run)(const Value*, void*)) {
  Op op{name, {}, {}, run};
  const std::string names = Arguments::names();
  for (size_t begin = 0; begin < names.size();) {
    const size_t end = std::min(names.find(", ", begin), names.size());
    op.names.push_back(names.substr(begin, end - begin));
    begin = end + 2;
  }
  Arguments a{};
  std::apply([&](auto&... field) { (op.parameters.push_back(parameter_of(field)), ...); }, a.fields());
  return op;
}

struct Registered {
  Registered(std::vector<Op>& ops, Op op) { ops.push_back(std::move(op)); }
};

// `function` takes the arguments; that of CUDA takes the stream too.
#define VZ_CPU_OP(name, Arguments, function)                                                                    \
  static const ::vz::Registered registered(                                                                     \
      ::vz::cpu_ops(), ::vz::make_op<Arguments>(name, [](const ::vz::Value* values, void*) {                    \
        function(::vz::read_arguments<Arguments>(values));                                                      \
      }));
#define VZ_CUDA_OP(name, Arguments, function)                                                                   \
  static const ::vz::Registered registered(                                                                     \
      ::vz::cuda_ops(), ::vz::make_op<Arguments>("cuda_" name, [](const ::vz::Value* values, void* stream) {    \
        function(::vz::read_arguments<Arguments>(values), stream);                                              \
      }));

}  // namespace vz
