"""Iterations on counts that are read in each pass, and on the same counts in memory."""

import tempfile
from pathlib import Path

from fastpmf import StreamedCounts, poisson_nmf
from fastpmf.io import stream_counts, write_counts

from .common import N_COMPONENTS, counts_of_shapes, names, random_start, scale

N_COUNTS = 300_000 * scale()
N_ITERATIONS = 10
WHERE = ("memory", "folder", "blocks")  # counts in memory; a folder of .npy; blocks in memory


class Iterations:
    """Iterations of each solver from the same start, on eight blocks."""

    param_names = ("where", "solver", "shape")
    params = (WHERE, ("mu", "em", "cd"), names(N_COUNTS, "power_law"))

    def setup_cache(self):
        return counts_of_shapes(N_COUNTS, "power_law")

    def setup(self, cached, where, solver, shape):
        counts = cached[shape]
        self.folder = tempfile.TemporaryDirectory()
        self.counts, X, size = counts, counts.to_scipy(), -(-counts.shape[0] // 8)
        if where == "folder":
            write_counts(Path(self.folder.name) / "X", counts)
            self.counts = stream_counts(Path(self.folder.name) / "X", block_entries=counts.nnz // 8).X
        elif where == "blocks":
            blocks = [X[i : i + size] for i in range(0, counts.shape[0], size)]
            self.counts = StreamedCounts(blocks.copy)
        start = random_start(counts.shape, counts.total, N_COMPONENTS)
        self.options = {"init": "custom", **start, "solver": solver, "acceleration": None, "tol": 0.0}
        self.options["eval_every"] = 100
        self.fit(6)

    def teardown(self, cached, where, solver, shape):
        self.folder.cleanup()

    def fit(self, n_iterations):
        return poisson_nmf(self.counts, N_COMPONENTS, max_iter=n_iterations, **self.options)

    def time_10_iterations(self, cached, where, solver, shape):
        self.fit(N_ITERATIONS)

    def track_objective(self, cached, where, solver, shape):
        return self.fit(N_ITERATIONS).objective

    track_objective.unit = "nats"
