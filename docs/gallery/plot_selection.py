"""
Number of components
====================

The score of held-out counts for each number of components, with three splits of the rows.
The counts are drawn with eight components.
"""

from fastpmf import plot, select_n_components
from fastpmf.datasets import make_poisson_counts

X = make_poisson_counts(400, 300, 8, nnz=20_000, random_state=0).X
axes = plot.selection(select_n_components(X, [2, 4, 6, 8, 10, 12, 16], random_state=0))

# %%
# Above: with too few components structure is missed, with too many noise is fitted.
# Below: components of different splits are most alike at the true number.
