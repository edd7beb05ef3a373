"""Dask clusters and clients: a cluster on this machine whose workers have several threads, and the current client."""

import os
from typing import Any

import numpy as np
from sklearn.utils import check_scalar

from fastpmf.dask.worker import THREADS
from fastpmf.kernels.threads import available_threads
from fastpmf.utils.extras import import_optional


def library(name: str) -> Any:
    """A module of Dask, or an ImportError with the command that installs it."""
    return import_optional(name, "dask", "fastpmf.dask")


def local_cluster(n_workers: int | None = None, threads_per_worker: int = 1, **options: Any) -> Any:
    """Worker processes on this machine, each with `threads_per_worker` threads for the kernels.

    Use it in a with statement, under ``if __name__ == "__main__":``, since worker processes import the script again.
    Dask itself runs one task at a time in each worker. Only the worker processes get FASTPMF_NUM_THREADS and
    OMP_NUM_THREADS in their environment. The profiler of Dask's dashboard is off, since it uses a few per cent of
    each processor, and so is Dask's ``MALLOC_TRIM_THRESHOLD_``, since an iteration uses the memory again that the one
    before has freed.

    Parameters
    ----------
    n_workers : int, optional
        By default the number of processors divided by `threads_per_worker`. With 0 there are no workers until `scale`
        adds some.
    threads_per_worker : int, default=1
        Numba threads of each worker.
    **options
        Of `distributed.LocalCluster`, such as `memory_limit` or `dashboard_address`.

    Returns
    -------
    distributed.LocalCluster

    Raises
    ------
    ImportError
        If Dask is not installed.
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    fastpmf.dask.PoissonNMF : fits on the workers of a cluster.
    fastpmf.dask.HPF : fits on the workers of a cluster.

    Examples
    --------
    In a script::

        from distributed import Client
        from fastpmf.dask import PoissonNMF, local_cluster

        if __name__ == "__main__":
            with local_cluster(4) as cluster, Client(cluster) as client:
                model = PoissonNMF(20, client=client, random_state=0).fit("counts.h5ad")
    """
    distributed, dask = library("distributed"), library("dask")
    check_scalar(threads_per_worker, "threads_per_worker", (int, np.integer), min_val=1)
    if n_workers is None:
        n_workers = max(1, available_threads() // threads_per_worker)
    check_scalar(n_workers, "n_workers", (int, np.integer), min_val=0)
    environment = {name: str(threads_per_worker) for name in (THREADS, "OMP_NUM_THREADS")}
    if "NUMBA_CACHE_DIR" in os.environ:
        environment["NUMBA_CACHE_DIR"] = os.environ["NUMBA_CACHE_DIR"]
    settings: dict[str, Any] = {"processes": True, "threads_per_worker": 1, "dashboard_address": ":0"} | options
    # A nanny sets `env` for each worker that it starts. Variables set before spawning ("pre-spawn-environ") would also
    # change the environment of this process; NUMBA_NUM_THREADS would have to be set that way.
    if settings["processes"]:
        settings["env"] = environment | settings.get("env", {})
    config = {
        "distributed.worker.profile.enabled": False,
        # Dask lets workers return freed memory to the system at once. An iteration then gets the memory of its messages
        # anew, page by page, which takes a quarter of the time of the messages. None: as in any process.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    }
    with dask.config.set(config):
        return distributed.LocalCluster(n_workers=n_workers, **settings)


def find_client(client: Any) -> Any:
    """The given client, or the current one; does not create one."""
    distributed = library("distributed")
    if client is None:
        try:
            client = distributed.default_client()
        except ValueError:
            raise ValueError(
                "client must be a distributed.Client if there is no current one: Client(fastpmf.dask.local_cluster()) "
                "makes one for this machine"
            ) from None
    if not isinstance(client, distributed.Client):
        raise TypeError(f"client must be a distributed.Client or None, got {type(client).__name__}")
    if client.asynchronous:
        raise ValueError("client must not be asynchronous: fit returns when it is done")
    if client.status != "running":
        raise ValueError(f"client must be connected to its scheduler, its status is {client.status!r}")
    return client
