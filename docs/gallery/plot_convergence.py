"""
Convergence
===========

How far the objective is above the best one, during fits of the same counts with different solvers.
"""

from fastpmf import PoissonNMF, plot
from fastpmf.datasets import make_poisson_counts

X = make_poisson_counts(500, 300, 8, nnz=20_000, random_state=0).X
solvers = ["cd", "mu", "em"]
fits = [
    PoissonNMF(8, solver=solver, eval_every=1, tol=0.02, random_state=0).fit(X)
    for solver in solvers
]
ax = plot.convergence(fits, labels=solvers, x="n_iter")

# %%
# A straight line means that each iteration removes the same fraction of the difference.
# The lowest objective of all fits is the reference, so its own last point is not drawn.
