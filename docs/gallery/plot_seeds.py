"""
Seeded components
=================

Three of twelve topics of the words in Python's standard library are told what to be about, by a few words each. The
prior of each is worth 1000 counts.
"""

import numpy as np

from fastpmf import PoissonNMF, plot, seeded_prior
from fastpmf.datasets import load_stdlib
from fastpmf.io import Dataset

words = load_stdlib()
text = ~np.char.startswith(words.row_names, "encodings")  # these are tables of characters
X = Dataset(words.X[text], column_names=words.column_names)
seeds = {
    "threads": ["thread", "lock", "queue"],
    "mail": ["email", "charset", "message"],
    "dates": ["date", "month", "year", "calendar"],
}
prior = seeded_prior(X, seeds, 12, strength=1000)
model = PoissonNMF(12, prior_W="auto", prior_H=prior, random_state=0).fit(X)
axes = plot.top_features(model, 10, components=[0, 1, 2])

# %%
# Tables and plots have the names of the components; the others have their numbers.

model.summary(5)
