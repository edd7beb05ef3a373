"""
Topics of documents
===================

The words of Python's standard library, module by module.
"""

from fastpmf import PoissonNMF
from fastpmf.datasets import load_stdlib

words = load_stdlib()
model = PoissonNMF(10, random_state=0).fit(words)
print(model.status_)
