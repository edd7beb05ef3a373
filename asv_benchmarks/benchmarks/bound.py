"""What no contraction can be faster than: the gather alone."""

import numpy as np
from fastpmf.kernels import simd
from fastpmf.kernels._jit import kernel
from fastpmf.kernels._llvm import call_intrinsic, element_pointer, load_vector, operation, row_pointer,I64
from numba import prange

GROUP=4
import os
ACC=int(os.environ.get("ACC","1")); PF=int(os.environ.get("PF","0"))

@operation(lambda acc, u, V, indices, p: acc + u * V[indices[p]])
def fma_row(typingctx, acc, u, V, indices, p):
    def emit(context, builder, signature, args):
        out, u_, V_, indices_, p_ = args
        _, _, V_type, indices_type, _ = signature.args
        j = builder.load(element_pointer(context, builder, indices_type, indices_, p_))
        j = builder.zext(j, I64) if j.type.width < 64 else j
        row = row_pointer(context, builder, V_type, V_, j)
        for k in range(acc.n_vectors):
            v = load_vector(builder, row, acc.dtype, k)
            total = call_intrinsic(builder, "fma", builder.extract_value(u_, k), v, builder.extract_value(out, k))
            out = builder.insert_value(out, total, k)
        return out
    from numba.core import types
    return acc(acc, u, V, indices, types.intp), emit


@kernel("out")
def gather_fma(n_vectors):
    """x"""
    ahead = 4 * GROUP if PF and n_vectors <= 8 else 0
    def one(indices, indptr, blocks, U, V, out, n_workers):
        counter = np.zeros(1, np.int64)
        for _ in prange(n_workers):
            b = simd.take(counter)
            while b < blocks.shape[0]:
                for i in range(blocks[b, 0], blocks[b, 1]):
                    start, stop = max(indptr[i], blocks[b, 2]), min(indptr[i + 1], blocks[b, 3])
                    u = simd.load(U, i, n_vectors)
                    s = simd.zeros(U, n_vectors)
                    if ahead:
                        whole = stop - (stop - start) % GROUP
                        for p in range(start, whole, GROUP):
                            simd.prefetch(V, indices, min(p + ahead, indices.shape[0] - GROUP), n_vectors)
                            s = fma_row(s, u, V, indices, p)
                            s = fma_row(s, u, V, indices, p+1)
                            s = fma_row(s, u, V, indices, p+2)
                            s = fma_row(s, u, V, indices, p+3)
                        for p in range(whole, stop):
                            s = fma_row(s, u, V, indices, p)
                    else:
                        for p in range(start, stop):
                            s = fma_row(s, u, V, indices, p)
                    simd.store(out, i, s)
                b = simd.take(counter)
    def two(indices, indptr, blocks, U, V, out, n_workers):
        counter = np.zeros(1, np.int64)
        for _ in prange(n_workers):
            b = simd.take(counter)
            while b < blocks.shape[0]:
                for i in range(blocks[b, 0], blocks[b, 1]):
                    start, stop = max(indptr[i], blocks[b, 2]), min(indptr[i + 1], blocks[b, 3])
                    whole = stop - (stop - start) % GROUP
                    u = simd.load(U, i, n_vectors)
                    s = simd.zeros(U, n_vectors)
                    s1 = simd.zeros(U, n_vectors)
                    s2 = simd.zeros(U, n_vectors)
                    s3 = simd.zeros(U, n_vectors)
                    for p in range(start, whole, GROUP):
                        if ahead:
                            simd.prefetch(V, indices, min(p + ahead, indices.shape[0] - GROUP), n_vectors)
                        s = fma_row(s, u, V, indices, p)
                        s1 = fma_row(s1, u, V, indices, p+1)
                        s2 = fma_row(s2, u, V, indices, p+2)
                        s3 = fma_row(s3, u, V, indices, p+3)
                    for p in range(whole, stop):
                        s = fma_row(s, u, V, indices, p)
                    simd.store(out, i, simd.add(simd.add(s,s1),simd.add(s2,s3)))
                b = simd.take(counter)

    return one if ACC==1 else two
