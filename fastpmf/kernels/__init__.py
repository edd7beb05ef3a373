"""Numba kernels: arrays in, arrays out. No kernel allocates memory, and none knows of models or solvers.

How a kernel is written, compiled and launched, from the bottom up:

_llvm       types of vectors, and what turns an operation into LLVM instructions
formula     arithmetic on vectors, as plain functions; special: exp, log, digamma and log Gamma in formulas
simd        operations that load, store, gather and sum vectors
threads     how many threads, how they start, what a fork does to them
launch      a kernel's arguments as a table, and the parallel loop that runs all kernels
_jit        the decorators `kernel` and `step`: compilation, the cache on disk, and calls

The kernels:

contract    `ratio_contract` and `scatter_contract`: the pass over the counts for the rows and for the columns
log_rate    `log_rate` and `log_count`: data terms of the objectives
multiply    `multiply`: the multiplicative update
coordinate  `descend`: coordinate descent
posterior   `update_posterior` and `posterior_terms`: Gamma posteriors of hierarchical Poisson factorization
rows        sums, logarithms and extrapolation of a factor's rows
csr         transposing and cutting CSR matrices
draw        drawing counts from the model
leverage    `leverages`: how far fitted rates follow single counts

A kernel is serial code for one task, such as a block of rows; its docstring gives its formula, the shapes of its
arguments, what it promises and what it costs. `_jit` shows a complete example.
"""
