"""
Structure plot
==============

Topic shares of each row as stacked bars.
"""

import fastpmf.plot
from fastpmf import PoissonNMF
from fastpmf.datasets import load_stdlib

model = PoissonNMF(10, random_state=0)
W = model.fit_transform(load_stdlib())
fastpmf.plot.structure(W, model)
