"""
Top features
============

The first words of each topic, by probability or by lift: the probability of a word in the topic divided by that in all
topics.
"""

import numpy as np

from fastpmf import PoissonNMF, plot
from fastpmf.datasets import load_stdlib
from fastpmf.io import Dataset

words = load_stdlib()
text = ~np.char.startswith(words.row_names, "encodings")  # these are tables of characters
X = Dataset(words.X[text], column_names=words.column_names)
model = PoissonNMF(6, random_state=0).fit(X)
axes = plot.top_features(model, 8)

# %%
# ``min_weight`` leaves out rare words, which would come first by lift.

axes = plot.top_features(model, 8, by="lift", min_weight=0.003)
