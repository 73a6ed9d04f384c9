"""Which kernel takes a product on a GPU, by the number of rows: tables made from measurements.

A table has three numbers for each quantization type (`limits`). It is a JSON file for one
architecture, the package's or one that `rocmforge tune` wrote for its user (`tables`), and is given
to the compiled library when the process first uses a GPU (`in_force`). `measure` times the kernels,
`search` finds the numbers.
"""
