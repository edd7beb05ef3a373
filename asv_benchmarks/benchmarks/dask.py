"""Iterations on Dask workers with one thread each, and in one process with the same number of threads."""

import importlib.util
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

from fastpmf import PoissonNMF
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import write_counts

from .common import N_COMPONENTS, counts_of_shapes, names, scale

N_COUNTS = 300_000 * scale()
N_ITERATIONS = 10
WHERE = ("workers", "process")
OPTIONS = {"solver": "mu", "acceleration": None, "tol": 0.0, "random_state": 0}


class Workers:
    """A cluster of `size` workers and a folder of counts."""

    def start(self, counts, size):
        if importlib.util.find_spec("distributed") is None:
            raise NotImplementedError("distributed is not installed")
        from distributed import Client

        from fastpmf.dask import local_cluster

        warnings.filterwarnings("ignore", message=".*max_iter")  # tol=0 is never reached
        self.folder = tempfile.TemporaryDirectory()
        write_counts(Path(self.folder.name) / "X", counts)
        self.cluster = local_cluster(size)
        self.client = Client(self.cluster)

    def fit_on_workers(self, **options):
        from fastpmf.dask import PoissonNMF as DistributedNMF

        model = DistributedNMF(N_COMPONENTS, client=self.client, **OPTIONS, **options)
        return model.fit(Path(self.folder.name) / "X")

    def teardown(self, *_):
        if hasattr(self, "client"):
            self.client.close()
            self.cluster.close()
            self.folder.cleanup()


class FixedCost(Workers):
    """An iteration on 20,000 counts, which is Dask's and the messages' time: fits of 60 iterations less those of 10."""

    param_names = ("workers",)
    params = ((1, 2),)

    def setup(self, size):
        self.start(make_poisson_counts(400, 500, 10, nnz=20_000, random_state=0).X, size)
        self.fit_on_workers(max_iter=10)  # compiles

    def seconds(self, n_iter):
        start = time.perf_counter()
        self.fit_on_workers(max_iter=n_iter)
        return time.perf_counter() - start

    def track_milliseconds(self, size):
        return median(1e3 * (self.seconds(60) - self.seconds(10)) / 50 for _ in range(5))

    track_milliseconds.unit = "ms"


class Iterations(Workers):
    """A fit of `N_ITERATIONS` iterations, including reading and transposing the rows, which workers do once."""

    param_names = ("where", "size", "shape")
    params = (WHERE, (1, 2), names(N_COUNTS, "power_law"))
    timeout = 300

    def setup_cache(self):
        return counts_of_shapes(N_COUNTS, "power_law")

    def setup(self, cached, where, size, shape):
        warnings.filterwarnings("ignore", message=".*max_iter")  # tol=0 is never reached
        self.counts = cached[shape]
        if where == "workers":
            self.start(self.counts, size)
        self.fit(where, size)  # compiles

    def fit(self, where, size):
        options = {"max_iter": N_ITERATIONS, "eval_every": 100}
        if where == "process":
            return PoissonNMF(N_COMPONENTS, n_threads=size, **OPTIONS, **options).fit(self.counts)
        return self.fit_on_workers(**options)

    def time_10_iterations(self, cached, where, size, shape):
        self.fit(where, size)

    def track_objective(self, cached, where, size, shape):
        return self.fit(where, size).objective_

    track_objective.unit = "nats"

    def track_bytes_between_workers(self, cached, where, size, shape):
        return self.fit(where, size).communication_["between_workers"] if where == "workers" else 0

    track_bytes_between_workers.unit = "bytes"
