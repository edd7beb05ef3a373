"""
Large data: disk, batches, clusters
===================================

What to do when counts grow: estimate the memory of a fit, leave the counts on disk, save a fit so that it can be
resumed, learn from counts as they arrive, and use the workers of a Dask cluster. The model is always the same, and
this page checks that the results are.

The counts are small here, so that the page is built in seconds. The steps are the same for counts a thousand times as
large.

It needs ``pip install 'fastpmf[dask,plot,tables]'``.
"""

# %%
# Will it fit?
# ------------
#
# :func:`fastpmf.plan` estimates the memory of a fit from the size of the counts, before anything is read. Suppose
# there are 1.2 million users, 20,000 items and a billion nonzeros:

import fastpmf

size = {"shape": (1_200_000, 20_000), "nnz": 10**9, "n_components": 50, "dtype": "float32"}
print("default: ", fastpmf.plan(**size))
print("em:      ", fastpmf.plan(**size, solver="em"))
print("streamed:", fastpmf.plan(**size, block_entries=2**23))

# %%
# The default needs the counts, a transposed copy of them, and the factors. ``solver="em"`` needs no transposed copy.
# Streamed counts stay on disk, with two blocks of them in memory at a time. If a fit needs more memory than there is,
# it raises an error before it starts, and the message says what would fit.
#
# Counts on disk
# --------------
#
# We draw counts, and write them as a table of purchases, as a shop might export it.

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from fastpmf.datasets import make_poisson_counts

folder = Path(tempfile.mkdtemp())
X = make_poisson_counts(6_000, 1_000, 10, nnz=200_000, concentration=0.1, random_state=0).X
entries = X.tocoo()
table = pd.DataFrame({"user": entries.row, "item": entries.col, "n": entries.data})
table.to_csv(folder / "purchases.csv", index=False)

# %%
# :func:`fastpmf.io.convert_counts` turns a file of any format into a folder of ``.npy`` files. It reads CSV, TSV,
# Parquet, HDF5 and zarr in chunks, so the table may be larger than memory. On the command line this is ``fastpmf
# convert purchases.csv counts``.

from fastpmf.io import convert_counts

data = convert_counts(folder / "purchases.csv", folder / "counts")
print(type(data.X.data).__name__, data.X.shape, data.row_names[:3])
print(*sorted(path.name for path in (folder / "counts").iterdir()))

# %%
# The result is memory-mapped: the operating system reads what is used. This is enough if memory holds the counts, but
# no second copy of them.
#
# Stream them
# -----------
#
# If not, :func:`fastpmf.io.stream_counts` reads a block of rows at a time. Each iteration is one pass over the file,
# and the next block is read while one is in use. Blocks here are tiny; the default of 8 million nonzeros, some 50 MB,
# is good for real files.

from fastpmf import PoissonNMF
from fastpmf.io import stream_counts

streamed = stream_counts(folder / "counts", block_entries=50_000)
in_memory = PoissonNMF(10, solver="mu", tol=1e-2, random_state=0).fit(data)
from_disk = PoissonNMF(10, solver="mu", tol=1e-2, random_state=0).fit(streamed)
print(from_disk.status_)
print("equal to the last bit:", np.array_equal(in_memory.components_, from_disk.components_))

# %%
# ``solver="mu"`` does the same arithmetic in both cases. The default solver, coordinate descent, is faster but needs
# all counts of a column at once. With streamed counts it updates W by coordinate descent and H by multiplicative steps,
# which takes another path, and more iterations. Here it ends in another local optimum, which is not as good.

default_in_memory = PoissonNMF(10, tol=1e-2, random_state=0).fit(data)
default_from_disk = PoissonNMF(10, tol=1e-2, random_state=0).fit(streamed)
for name, model in (("in memory", default_in_memory), ("from disk", default_from_disk)):
    print(f"{name}: {model.objective_:,.0f} after {model.n_iter_} iterations. {model.status_}")

# %%
import fastpmf.plot

axes = fastpmf.plot.convergence(
    [in_memory, default_in_memory, default_from_disk],
    labels=["mu, either", "default, in memory", "default, from disk"],
    x="n_iter",
)

# %%
# ``transform`` takes streamed counts too, and returns W in memory.

W = default_from_disk.transform(streamed)
W.shape

# %%
# Your own blocks
# ---------------
#
# For counts in several files or in a database, :class:`fastpmf.StreamedCounts` takes a function that yields the blocks
# of rows. It is called again for each pass.

from scipy import sparse

months = [folder / f"month-{i}.npz" for i in range(4)]
for i, month in enumerate(months):
    sparse.save_npz(month, X[i * 1_500 : (i + 1) * 1_500])


def read_months():
    for month in months:
        yield sparse.load_npz(month)


by_month = fastpmf.StreamedCounts(read_months)
print(by_month.shape)
print(f"{by_month.nnz:,} nonzeros, at most {by_month.block_entries:,} in a block")

# %%
# A fit that may be stopped
# -------------------------
#
# A long fit should survive a restart of the machine. ``checkpoint`` saves everything that the next iteration depends
# on, every ten minutes or as a :class:`fastpmf.Checkpoint` says. Here the fit is stopped after 20 iterations by
# ``max_iter``.

from fastpmf import Checkpoint

every_ten = Checkpoint(folder / "saved", iterations=10)
short = PoissonNMF(10, solver="mu", tol=0.02, max_iter=20, random_state=0)
short = short.fit(by_month, checkpoint=every_ten)

# %%
# ``resume`` continues from the last checkpoint, and gives bitwise the result of a fit that was never stopped.

resumed = PoissonNMF(10, solver="mu", tol=0.02, random_state=0)
resumed.fit(by_month, resume=folder / "saved")
whole = PoissonNMF(10, solver="mu", tol=0.02, random_state=0).fit(by_month)
print(f"{resumed.n_iter_} and {whole.n_iter_} iterations")
print("equal to the last bit:", np.array_equal(resumed.components_, whole.components_))

# %%
# Counts that keep arriving
# -------------------------
#
# ``fit`` needs all counts in each iteration. :meth:`fastpmf.PoissonNMF.partial_fit` sees a batch of rows once and
# updates H. The result is an approximation that more passes improve. ``score`` is the log-likelihood per count of rows
# under their best W, here for users that no model has seen.

new_users = X[5_500:]
batches = [X[start : start + 500] for start in range(0, 5_500, 500)]
options = {"prior_W": (1.1, 1.0), "prior_H": (1.1, 1.0), "random_state": 0}
online = PoissonNMF(10, **options)
for epoch in range(3):
    for batch in batches:
        online.partial_fit(batch)
    print(f"after pass {epoch + 1}: {online.score(new_users):.4f} nats per count")
full = PoissonNMF(10, tol=1e-3, **options).fit(X[:5_500])
print(f"fit to all:   {full.score(new_users):.4f}")

# %%
# Several machines
# ----------------
#
# If one machine is too slow or too small, ``fastpmf.dask`` spreads the rows over the workers of a Dask cluster. Counts
# and W stay where they are. In each iteration only a sum of the size of H is sent.
#
# X may be a path that all workers can read, a dask array, or a list of delayed blocks. To keep this page simple, the
# cluster is a single worker inside this process. On a real cluster only the line that makes it differs.

import dask
from distributed import Client

from fastpmf.dask import PoissonNMF as DaskPoissonNMF
from fastpmf.dask import local_cluster

blocks = [dask.delayed(sparse.load_npz)(month) for month in months]
with local_cluster(1, processes=False) as cluster, Client(cluster):
    distributed = DaskPoissonNMF(10, solver="mu", tol=0.02, random_state=0).fit(blocks)
    model = distributed.to_local()

print(distributed.status_)
print(distributed.n_iter_, "iterations")
print("equal:", np.allclose(model.components_, whole.components_, rtol=1e-10))

# %%
# With several workers the factors differ by rounding, since sums are formed in another order. ``to_local`` gives an
# ordinary :class:`fastpmf.PoissonNMF`, to be saved, applied to new rows, and plotted.
#
# For worker processes on one machine, guard the script by ``__name__``, since each worker imports it again:
#
# .. code-block:: python
#
#     from distributed import Client
#     from fastpmf.dask import PoissonNMF, local_cluster
#
#     if __name__ == "__main__":
#         with local_cluster(2) as cluster, Client(cluster):
#             model = PoissonNMF(10, solver="mu", tol=0.02, random_state=0).fit("counts")
#             print(model.communication_)
#
# A run of this script took 60 iterations and gave the same factors as above, up to a relative difference of 3e-13. In
# each iteration the two workers sent each other a message of the size of H, padded to 128 kB:
#
# .. code-block:: text
#
#     {'messages': 126, 'between_workers': 15859168, 'to_client': 132076}
#
# What next
# ---------
#
# * :doc:`/guide/scale` is about streams and checkpoints, with measured times and memory.
# * :doc:`/guide/dask` is about SLURM, Kubernetes, lost workers, and what is sent.
# * :doc:`/guide/performance` is about threads.
