"""Dask clusters and clients: one on this machine whose workers have their threads, and the one that there is."""

import os
from typing import Any

import numpy as np

from fastpmf.dask._worker import THREADS
from fastpmf.kernels.threads import available_threads
from fastpmf.utils.extras import import_optional


def library(name: str) -> Any:
    """A module of Dask's, or a sentence that says how to have it."""
    return import_optional(name, "dask", "fastpmf.dask")


def local_cluster(n_workers: int | None = None, threads_per_worker: int = 1, **options: Any) -> Any:
    """Worker processes on this machine, each with so many threads for the kernels.

    Use it as a context, under ``if __name__ == "__main__":``, since worker processes import the script again. Dask
    itself runs one task at a time in each worker. The threads are told to the worker processes alone, as
    FASTPMF_NUM_THREADS and OMP_NUM_THREADS in their environment. Dask's sampling of what workers are doing, for the
    profile on its dashboard, is off: it takes some hundredths of each processor, which the kernels have a use for.

    Parameters
    ----------
    n_workers : int, optional
        By default as many as there are processors for, by `threads_per_worker`. 0: none yet, `scale` adds them.
    threads_per_worker : int, default=1
        Threads of Numba in each worker.
    **options
        Of `distributed.LocalCluster`, such as `memory_limit` or `dashboard_address`.

    Returns
    -------
    distributed.LocalCluster

    Raises
    ------
    ImportError
        Dask is not installed.
    TypeError, ValueError
        A number that is none, or too low.

    Examples
    --------
    In a script::

        from distributed import Client
        from fastpmf.dask import PoissonNMF, local_cluster

        if __name__ == "__main__":
            with local_cluster(4) as cluster, Client(cluster) as client:
                model = PoissonNMF(20, client=client, random_state=0).fit("counts.h5ad")
    """
    distributed = library("distributed")
    dask = library("dask")
    for name, number, least in (("threads_per_worker", threads_per_worker, 1), ("n_workers", n_workers, 0)):
        if name == "n_workers" and number is None:
            continue
        if not isinstance(number, int | np.integer):
            raise TypeError(f"{name} must be an integer, got {type(number).__name__}")
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    if n_workers is None:
        n_workers = max(1, available_threads() // threads_per_worker)
    environment = {name: str(threads_per_worker) for name in (THREADS, "OMP_NUM_THREADS")}
    if "NUMBA_CACHE_DIR" in os.environ:
        environment["NUMBA_CACHE_DIR"] = os.environ["NUMBA_CACHE_DIR"]
    settings: dict[str, Any] = {"processes": True, "threads_per_worker": 1, "dashboard_address": ":0"} | options
    # A nanny sets `env` whenever it starts a worker, also one that is added later. Variables that are set before
    # spawning ("pre-spawn-environ") would change this process's environment too. NUMBA_NUM_THREADS would have to be
    # set that way, because Numba fixes it when its threads start.
    if settings["processes"]:
        settings["env"] = environment | settings.get("env", {})
    with dask.config.set({"distributed.worker.profile.enabled": False}):
        return distributed.LocalCluster(n_workers=n_workers, **settings)


def the_client(client: Any) -> Any:
    """The client that was given, or the current one; never a new one."""
    distributed = library("distributed")
    if client is None:
        try:
            client = distributed.default_client()
        except ValueError:
            raise ValueError(
                "client must be a distributed.Client, or one must have been made: Client(fastpmf.dask.local_cluster()) "
                "makes one for this machine"
            ) from None
    if not isinstance(client, distributed.Client):
        raise TypeError(f"client must be a distributed.Client or None, got {type(client).__name__}")
    if client.asynchronous:
        raise ValueError("client must not be asynchronous: fit returns when it is done")
    if client.status != "running":
        raise ValueError(f"client must be connected to its scheduler, its status is {client.status!r}")
    return client
