"""Fits of AnnData objects in scanpy's style: cells are rows, and results are written to the object.

poisson_nmf, hpf     fit a model and write W, topic shares and H to the object
transform            W and topic shares of new cells under a fitted model, by gene names
to_anndata           a fitted model as an AnnData object
"""

from fastpmf.anndata._fit import hpf, poisson_nmf
from fastpmf.anndata._results import to_anndata
from fastpmf.anndata._transform import transform

__all__ = ["hpf", "poisson_nmf", "to_anndata", "transform"]
