"""What the compilers say of the GPU kernels, without a GPU. `python tests/aot` prints the table."""
