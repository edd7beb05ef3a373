"""
Consensus of many fits
======================

Ten fits from random starts, and what they agree on. The counts are drawn with eight components, and nine are fitted.
"""

import warnings

from fastpmf import consensus, plot
from fastpmf.datasets import make_poisson_counts

X = make_poisson_counts(300, 300, 8, nnz=9_000, random_state=1).X
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that all components of the ninth cluster are outliers
    found = consensus(X, 9, n_replicates=10, random_state=0)
axes = plot.consensus(found)

# %%
# Left: bright squares are components that all fits have. Middle: components without near neighbours in the other fits
# are outliers, and not part of the consensus. Right: the ninth component is not stable, and grey.
