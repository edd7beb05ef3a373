"""Iterations on Dask workers with one thread each, and in one process with the same number of threads."""

import importlib.util
import tempfile
import warnings
from pathlib import Path

from fastpmf import PoissonNMF
from fastpmf.io import write_counts

from .common import N_COMPONENTS, counts_of_shapes, names, scale

N_COUNTS = 300_000 * scale()
N_ITERATIONS = 10
WHERE = ("workers", "process")


class Iterations:
    """A fit of `N_ITERATIONS` iterations, including reading and transposing the rows, which workers do once."""

    param_names = ("where", "size", "shape")
    params = (WHERE, (1, 2), names(N_COUNTS, "power_law"))
    timeout = 300

    def setup_cache(self):
        return counts_of_shapes(N_COUNTS, "power_law")

    def setup(self, cached, where, size, shape):
        if importlib.util.find_spec("distributed") is None:
            raise NotImplementedError("distributed is not installed")
        warnings.filterwarnings("ignore", message=".*max_iter")  # tol=0 is never reached
        self.options = {
            "solver": "mu", "acceleration": None, "max_iter": N_ITERATIONS, "tol": 0.0, "eval_every": 100,
            "random_state": 0,
        }  # fmt: skip
        self.counts = cached[shape]
        if where == "workers":
            from distributed import Client

            from fastpmf.dask import local_cluster

            self.folder = tempfile.TemporaryDirectory()
            write_counts(Path(self.folder.name) / "X", self.counts)
            self.cluster = local_cluster(size)
            self.client = Client(self.cluster)
        self.fit(where, size)  # compiles

    def teardown(self, cached, where, size, shape):
        if hasattr(self, "client"):
            self.client.close()
            self.cluster.close()
            self.folder.cleanup()

    def fit(self, where, size):
        if where == "process":
            return PoissonNMF(N_COMPONENTS, n_threads=size, **self.options).fit(self.counts)
        from fastpmf.dask import PoissonNMF as DistributedNMF

        return DistributedNMF(N_COMPONENTS, client=self.client, **self.options).fit(Path(self.folder.name) / "X")

    def time_10_iterations(self, cached, where, size, shape):
        self.fit(where, size)

    def track_objective(self, cached, where, size, shape):
        return self.fit(where, size).objective_

    track_objective.unit = "nats"

    def track_bytes_between_workers(self, cached, where, size, shape):
        return self.fit(where, size).communication_["between_workers"] if where == "workers" else 0

    track_bytes_between_workers.unit = "bytes"
