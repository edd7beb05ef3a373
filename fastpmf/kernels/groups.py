"""Kernels for effects of groups of rows on features: sums of factor rows by group. A task is a block of rows."""

from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels.formula import fma, formula
from fastpmf.kernels.launch import arguments


@formula()
def _add_product(total, a, b):
    return fma(a, b, total)


@kernel(writes=1)
def group_sums(table, block, worker):
    """Sum the rows of a factor over groups, one block of rows at a time, in float64.

    out[b G + g, k] = sum over the rows i of block b with group[i] = g of  A[i, k]

    in    A           (n_rows, K)       float32 or float64, K padded to whole vectors
          group       (n_rows,)         int64, from 0 to G - 1
          row_blocks  (n_blocks + 1,)   int64, boundaries of blocks of rows
          n_groups    int               G
    out   out         (n_blocks G, K)   float64, overwritten
    gives bitwise the same result for any number of workers
    cost  one stream over A
    """
    A, group, row_blocks, n_groups, out = arguments(table)
    first = block * n_groups
    for g in range(n_groups):
        simd.clear_row(out, first + g)
    for i in range(row_blocks[block], row_blocks[block + 1]):
        for v in range(simd.width(A)):
            simd.add_to_sums(out, first + group[i], v, simd.load(A, i, v))


@kernel(writes=1)
def effect_sums(table, block, worker):
    """Sum the rows of a factor times the effects of each group, one block of rows at a time, in float64.

    out[b G + g, k] = sum over the rows j of block b of  effect[j, g] A[j, k]

    in    A           (n_rows, K)       float32 or float64, K padded to whole vectors
          effect      (n_rows, G)       float64
          row_blocks  (n_blocks + 1,)   int64, boundaries of blocks of rows
    out   out         (n_blocks G, K)   float64, overwritten
    gives bitwise the same result for any number of workers
    cost  2 n_rows K G flops; G streams over a block, which fits the first-level cache
    """
    A, effect, row_blocks, out = arguments(table)
    n_groups = effect.shape[1]
    for v in range(simd.width(A)):
        for g in range(0, n_groups, 2):
            after = min(g + 1, n_groups - 1)  # two groups share the conversion of A; of an odd number the last is twice
            first = second = simd.as_float64(simd.zero(A, v))
            for j in range(row_blocks[block], row_blocks[block + 1]):
                a = simd.as_float64(simd.load(A, j, v))
                first, second = _add_product(first, effect[j, g], a), _add_product(second, effect[j, after], a)
            simd.store_sums(out, block * n_groups + g, v, first)
            simd.store_sums(out, block * n_groups + after, v, second)


@kernel(writes=1)
def group_rates(table, block, worker):
    """Products of the rows of a factor and of sums of the other one over groups: the rates of features, by group.

    out[j, g] = sum_k A[j, k] sums[g, k]

    in    A           (n_rows, K)       float32 or float64, K padded to whole vectors
          sums        (G, K)            float64
          row_blocks  (n_blocks + 1,)   int64, boundaries of blocks of rows
    out   out         (n_rows, G)       float64, overwritten
    gives bitwise the same result for any number of workers
    cost  2 n_rows K G flops, one stream over A
    """
    A, sums, row_blocks, out = arguments(table)
    for j in range(row_blocks[block], row_blocks[block + 1]):
        for g in range(sums.shape[0]):
            total = simd.as_float64(simd.zero(A, 0))
            for v in range(simd.width(A)):
                total = _add_product(total, simd.as_float64(simd.load(A, j, v)), simd.load_sums(sums, g, v, A))
            out[j, g] = simd.total(total)


@kernel(writes=1)
def best_effects(table, block, worker):
    """The posterior modes of the logarithms of effects, given the sums of the other factor over groups.

    out[j, g] = (counts[j, g] + strength) / (sum_k A[j, k] sums[g, k] + strength)

    in    A           (n_rows, K)       float32 or float64, K padded to whole vectors
          sums        (G, K)            same dtype, in which the products are summed
          counts      (n_rows, G)       float64
          strength    float             > 0
          row_blocks  (n_blocks + 1,)   int64, boundaries of blocks of rows
    out   out         (n_rows, G)       float64, overwritten
    gives bitwise the same result for any number of workers
    cost  2 n_rows K G flops, one stream over A
    """
    A, sums, counts, strength, row_blocks, out = arguments(table)
    n_groups = sums.shape[0]
    for g in range(0, n_groups, 2):  # two at a time, as in `effect_sums`
        after = min(g + 1, n_groups - 1)
        for j in range(row_blocks[block], row_blocks[block + 1]):
            first = second = simd.zero(A, 0)
            for v in range(simd.width(A)):
                a = simd.load(A, j, v)
                first = _add_product(first, a, simd.load(sums, g, v))
                second = _add_product(second, a, simd.load(sums, after, v))
            out[j, g] = (counts[j, g] + strength) / (simd.total(first) + strength)
            out[j, after] = (counts[j, after] + strength) / (simd.total(second) + strength)


@kernel(writes=1)
def group_weights(table, block, worker):
    """Sums over all groups of their effects times sums of the other factor: the weights of the features' rows.

    out[j, k] = sum_g effect[j, g] sums[g, k]

    in    effect      (n_rows, G)       float64
          sums        (G, K)            float32 or float64, K padded to whole vectors
          row_blocks  (n_blocks + 1,)   int64, boundaries of blocks of rows
    out   out         (n_rows, K)       dtype of sums, overwritten
    gives bitwise the same result for any number of workers
    cost  2 n_rows K G flops, one stream over out
    """
    effect, sums, row_blocks, out = arguments(table)
    for j in range(row_blocks[block], row_blocks[block + 1]):
        for v in range(simd.width(sums)):
            total = simd.zero(sums, v)
            for g in range(effect.shape[1]):
                total = _add_product(total, effect[j, g], simd.load(sums, g, v))
            simd.store(out, j, v, total)
