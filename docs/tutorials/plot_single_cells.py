"""
Expression programs of single cells
===================================

This tutorial takes an AnnData object with counts to topics, their marker genes, and the types of new cells.
A topic is an expression program: a set of genes that are expressed together.
A cell is a mixture of topics, so it can be of one type and also divide or respond to a stimulus.

The counts are drawn here, so that every step can be compared with the truth.
With your own data, start at :ref:`choose_k`.

It needs ``pip install 'fastpmf[anndata,plot]'``.
"""

# %%
# Cells with a known truth
# ------------------------
#
# 1,200 cells are of five types, A to E.
# Each type expresses 25 genes at a higher level.
# A sixth program, "activated", is on to a varying degree in 30 % of the cells, whatever their type.
# The cells were measured in two batches, and the second batch captures each gene with another efficiency.
# Library sizes differ between cells, and counts vary more than Poisson counts do.

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import sparse

rng = np.random.default_rng(0)
n_cells, n_genes, programs = 1200, 800, ["A", "B", "C", "D", "E", "activated"]
genes = np.array([f"GENE{j}" for j in range(n_genes)])
markers = rng.permutation(n_genes)[: 6 * 25].reshape(6, 25)
fold_change = np.ones((6, n_genes))
for program, own in enumerate(markers):
    fold_change[program, own] = rng.uniform(3, 12, 25)

kind = rng.choice(5, n_cells, p=[0.35, 0.25, 0.2, 0.12, 0.08])
activation = np.where(rng.random(n_cells) < 0.3, rng.random(n_cells), 0)
batch = rng.integers(2, size=n_cells)
efficiency = np.stack([np.ones(n_genes), rng.lognormal(0, 0.5, n_genes)])
rate = rng.lognormal(0, 1.2, n_genes) * fold_change[kind] * efficiency[batch]
rate *= 1 + activation[:, None] * (fold_change[5] - 1)
rate *= (rng.lognormal(np.log(800), 0.4, n_cells) / rate.sum(axis=1))[:, None]
counts = rng.poisson(rng.gamma(10, rate / 10)).astype("float32")

everything = anndata.AnnData(
    sparse.csr_matrix(counts),
    obs=pd.DataFrame(
        {
            "type": pd.Categorical.from_codes(kind, list("ABCDE")),
            "batch": pd.Categorical.from_codes(batch, ["1", "2"]),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    ),
    var=pd.DataFrame(index=genes),
)
adata, new = everything[:1000].copy(), everything[1000:, :49:-1].copy()  # `new` is for the end
adata

# %%
# fastpmf fits *counts*.
# Do not normalise them and do not take logarithms: library sizes are part of the model, and zeros cost nothing.
# If ``adata.X`` holds logarithms, give the layer that holds the counts, ``layer="counts"``.
# ``mask_var="highly_variable"`` fits those genes only.
# Call ``adata.var_names_make_unique()`` first if gene symbols occur more than once: new cells are aligned by name.

# %%
# .. _choose_k:
#
# How many topics?
# ----------------
#
# :func:`fastpmf.select_n_components` holds out 10 % of the cells at random, and measures how well each number of
# topics predicts a part of their genes from the others.
# :func:`fastpmf.anndata.to_dataset` takes the counts with the names of cells and genes out of the AnnData object.

import fastpmf.anndata
from fastpmf import select_n_components

X = fastpmf.anndata.to_dataset(adata)
selection = select_n_components(X, [2, 4, 6, 8, 10], random_state=0)
print("recommended:", selection.recommended)
print(selection.to_frame().drop(columns="seconds").round(4))

# %%
# The score rises steeply and then levels off.
# ``recommended`` is the smallest number whose score is, up to its error, as good as the best one.
# Fewer topics are easier to read, more topics separate finer programs.
# With many cells, use a random subset of a few thousand for this step:
# ``X[rng.choice(len(adata), 3000, replace=False)]``.

# %%
# Fit
# ---
#
# :func:`fastpmf.anndata.poisson_nmf` fits the model and writes the results to ``adata``.
# ``prior_W="auto"`` and ``prior_H="auto"`` are weak priors, which help where counts are few.
# They are also what ``select_n_components`` used.

options = {"prior_W": "auto", "prior_H": "auto", "random_state": 0}
model = fastpmf.anndata.poisson_nmf(adata, selection.recommended, **options)
print(model.status_)
adata

# %%
# ``.obsm["X_pmf_topics"]`` has the shares of the topics in each cell; they sum to 1.
# Look at their means by type and batch first, and then at all cells, in a structure plot.

from fastpmf import plot

shares = pd.DataFrame(adata.obsm["X_pmf_topics"], index=adata.obs_names)
shares.groupby([adata.obs["type"], adata.obs["batch"]], observed=True).mean().round(2)

# %%

group = adata.obs["type"].astype(str) + adata.obs["batch"].astype(str)
ax = plot.structure(adata.obsm["X_pmf"], model, groupby=group)
ax.set_title("Type and batch of the cells")
plt.show()

# %%
# Two topics have more than a third of the counts of most cells, one in each batch.
# These topics are the batches.
# In your data, compare the mean shares of the topics between batches.
# Look for topics whose means differ by a large factor:

by_batch = shares.groupby(adata.obs["batch"], observed=True).mean().T
by_batch["ratio"] = by_batch.max(axis=1) / by_batch.min(axis=1)
by_batch.round(2)

# %%
# Cells cluster by batch as well as by type.
# The adjusted Rand index compares clusters with known groups: 1 is the same, 0 is chance.

from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score


def clusters(shares):
    return KMeans(5, n_init=10, random_state=0).fit_predict(np.sqrt(shares))


found = clusters(shares)
print(f"clusters and types   {adjusted_rand_score(adata.obs['type'], found):.3f}")
print(f"clusters and batches {adjusted_rand_score(adata.obs['batch'], found):.3f}")

# %%
# Effects of batches
# ------------------
#
# ``batch_key`` fits a factor for each gene and batch, together with the topics.
# Two topics were the batches, so that two fewer are enough.

k = selection.recommended - 2
model = fastpmf.anndata.poisson_nmf(adata, k, batch_key="batch", **options)
ratio = np.log(model.group_effects_[1] / model.group_effects_[0])
correlation = np.corrcoef(ratio, np.log(efficiency[1]))[0, 1]
print(f"correlation of the effects with the true efficiencies: {correlation:.2f}")
ax = plot.structure(adata.obsm["X_pmf"], model, groupby=group)
plt.show()

# %%
# The clusters are now the types, and they have nothing to do with the batches.

shares = pd.DataFrame(adata.obsm["X_pmf_topics"], index=adata.obs_names)
found = clusters(shares)
print(f"clusters and types   {adjusted_rand_score(adata.obs['type'], found):.3f}")
print(f"clusters and batches {adjusted_rand_score(adata.obs['batch'], found):.3f}")
pd.crosstab(adata.obs["type"], pd.Series(found, adata.obs_names, name="cluster"))

# %%
# The method has two limits: batches must be known, and each type should occur in several of them.
# If all cells of a batch are of one type that no other batch has, no method can separate the type from the batch.
# The guide on :doc:`batch effects </guide/groups>` says more.
#
# In scanpy, neighbours and UMAP of the shares work as with any other embedding:
#
# .. code-block:: python
#
#    sc.pp.neighbors(adata, use_rep="X_pmf_topics")
#    sc.tl.umap(adata)

# %%
# Marker genes
# ------------
#
# The genes with the largest weight in a topic are often frequent in all topics.
# :meth:`~fastpmf.PoissonNMF.differential_expression` compares the rate of each gene in a topic with the other topic
# that has the nearest rate.
# ``top`` orders genes by a lower bound of this change, the estimate minus two standard errors, in log2.
# With ``groups``, effects of batches are no changes of topics.

changes = model.differential_expression(X, adata.obsm["X_pmf"], groups=adata.obs["batch"])
top = changes.top(6)
for z in range(k):
    pairs = zip(top.names[z], top.scores[z], strict=True)
    print(f"topic {z}:", ", ".join(f"{gene} {bound:.1f}" for gene, bound in pairs))

# %%
# With real data you would now look up these genes.
# Here they can be compared with the truth: of which program are the first six genes of each topic markers?

program_of = pd.Series("-", index=genes)
for program, own in zip(programs, markers, strict=True):
    program_of[genes[own]] = program
pd.DataFrame([program_of[row].value_counts() for row in top.names]).fillna(0).astype(int)

# %%
# The topic "activated" is not a cell type: it occurs in cells of all types.
# Clustering cannot find it, since these cells are in all clusters.

activated = program_of[top.names[:, 0]].to_list().index("activated")
correlation = np.corrcoef(shares[activated], activation[:1000])[0, 1]
print(f"correlation of its share with the truth: {correlation:.3f}")
ax = plot.differential(changes, activated)
plt.show()

# %%
# New cells
# ---------
#
# :func:`fastpmf.anndata.transform` finds the topics of cells that were not fitted.
# Genes are matched by name: the new cells have them in the opposite order, and 50 of them are missing.
# Missing genes count as not observed, not as zeros.
# The new cells are of the same batches; ``new_batches="estimate"`` is for others.

fastpmf.anndata.transform(new, model, batch_key="batch")

# %%
# Any classifier of scikit-learn can now carry the types over from the old cells to the new ones:

from sklearn.neighbors import KNeighborsClassifier

classifier = KNeighborsClassifier().fit(adata.obsm["X_pmf_topics"] ** 0.5, adata.obs["type"])
new.obs["predicted"] = classifier.predict(new.obsm["X_pmf_topics"] ** 0.5)
right = (new.obs["predicted"] == new.obs["type"]).mean()
print(f"{right:.1%} of {new.n_obs} new cells have the right type")

# %%
# What next
# ---------
#
# The cell types of this page are clearer than real ones, so expect less clear results with your own data.
# ``adata.write_h5ad("cells.h5ad")`` keeps the results with the data, and ``model.save("model.npz")`` keeps the model
# for more new cells.
#
# - A fit depends on its random start: ``n_init=10`` tries ten and finishes the best.
# - :doc:`/guide/choosing_k` says more about the number of topics, and how to find topics that are noise.
# - :doc:`/guide/reading` says more about reading topics.
# - ``model.report("report.html", X)`` writes the topics, their quality and plots into one file.
