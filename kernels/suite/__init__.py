"""One suite of numeric checks for every GPU implementation: Triton interpreted, CUDA C++ under the shim, a real GPU."""
