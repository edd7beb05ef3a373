"""Fits of counts that are spread over the workers of a Dask cluster; `pip install 'fastpmf[dask]'`.

PoissonNMF         maximum likelihood, or posterior modes
HPF                posteriors
local_cluster      workers on this machine, with their threads
"""

from fastpmf.dask.cluster import local_cluster
from fastpmf.dask.hpf import HPF
from fastpmf.dask.poisson_nmf import PoissonNMF

__all__ = ["HPF", "PoissonNMF", "local_cluster"]
