"""
Recommendations for a shop
==========================

This tutorial goes from a table of purchases to recommendations: read the table, hold out purchases, compare models with
popularity, choose one, and recommend items to known users, items to new users, and new items.

The purchases are drawn at random here, so that the script runs without any download and the truth is known. To use your
own, replace the first block by ``pandas.read_csv`` or a query.

It needs ``pip install fastpmf pandas matplotlib``.
"""

# %%
# A table of purchases
# --------------------
#
# A shop has six departments of 30 items each. Every user has favourite departments, and every department has popular
# and less popular items. The number of pieces that a user buys of an item has a heavy tail and nothing to do with
# taste: a café buys 500 napkins where others buy one.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse

rng = np.random.default_rng(0)
departments = np.array(["coffee", "baking", "garden", "paper", "toys", "candles"])
items = np.array([f"{department} {i}" for i in range(1, 31) for department in departments])
popularity = np.arange(1, 181) ** -0.7
taste = rng.dirichlet(np.full(6, 0.25), size=800)  # shares of the departments for 800 users
rate = 110 * rng.gamma(1.5, size=(800, 1)) * np.tile(taste, 30) * popularity / popularity.sum()
user, item = np.nonzero(rng.poisson(rate))
purchases = pd.DataFrame(
    {
        "user": [f"user {i}" for i in user],
        "item": items[item],
        "n": np.ceil(rng.lognormal(0, 2, len(user))).astype(int),
    }
)
purchases

# %%
# Counts with names
# -----------------
#
# A fit needs a matrix of users × items. :meth:`fastpmf.io.Dataset.from_entries` makes one: a sparse matrix with the
# names of its rows and columns. For a file, :func:`fastpmf.io.read_counts` does the same. The third column is optional:
# without it, each line is one count, such as a click.

from fastpmf.io import Dataset

data = Dataset.from_entries(purchases["user"], purchases["item"], purchases["n"])
data.X

# %%
# Look at the counts first
# ------------------------
#
# The likelihood of a Poisson model weighs counts by their size. Here 1 % of the entries hold a third of all pieces,
# so a fit of the raw counts spends its components on these few entries.

counts = np.sort(data.X.data)[::-1]
top = round(0.01 * len(counts))
share = counts[:top].sum() / counts.sum()
print(f"median {np.median(counts):.0f}, largest {counts[0]}, share of the top 1 %: {share:.0%}")

fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.hist(counts, bins=np.geomspace(1, counts[0], 30), log=True)
ax.set(xscale="log", xlabel="pieces of an item bought by a user", ylabel="entries")
ax.spines[["top", "right"]].set_visible(False)

# %%
# Two ways to prepare them are common. ``x > 0`` keeps only whether a user has the item. ``log2(1 + x)`` keeps part of
# the amount: 1 remains 1, and 1000 becomes 10. We will try both.

preparations = {
    "raw counts": lambda X: X,
    "log2(1 + x)": lambda X: np.log1p(X.astype(float)) / np.log(2),
    "x > 0": lambda X: X.sign(),
}

# %%
# Hold out purchases
# ------------------
#
# A recommendation is good if the user buys the item later. To measure this, hide a fifth of the purchases and see
# whether the model ranks them high. There are three ways to hide counts. Here the first is the right one:
#
# * :func:`fastpmf.split_entries` moves whole entries. In the first part, a hidden purchase is a zero, like any other
#   item that the user has not bought. This is what the model will meet in the shop.
# * :func:`fastpmf.thin_counts` moves single units. Of 5 pieces of tea, 4 may stay and 1 be hidden. The two parts are
#   independent if counts are Poisson, which makes them right for comparing *likelihoods*. But predicting that somebody
#   who has bought tea buys tea is no recommendation.
# * ``fit(X, mask=...)`` declares entries unobserved, so that their zeros are not used. This is for entries that could
#   not have a count, such as an item that was not on sale in a user's country. Do not mask the hidden purchases: the
#   mask would tell the model where they are, as we will see.

from fastpmf import split_entries

train, test = split_entries(data, 0.2, random_state=0)
print(train.X.nnz, "purchases to fit,", test.X.nnz, "to predict")

# %%
# The baseline
# ------------
#
# :func:`fastpmf.ranking_scores` ranks for each user all items that the user does not have in ``exclude``, and
# compares the first ten with the hidden purchases. It gives means over all users who have any:
#
# * precision: the share of the ten recommended items that are hidden purchases,
# * recall: the share of the hidden purchases that are among the ten,
# * NDCG: like recall, but a hit on rank 1 counts more than one on rank 10.
#
# Every model should beat popularity, which recommends the best-selling items to everybody. It is a model with one
# component.

from fastpmf import HPF, PoissonNMF, ranking_scores

table = {}


def score(name, W, H):
    found = ranking_scores(test, W, H, 10, exclude=train)
    table[name] = {"precision": found.precision, "recall": found.recall, "NDCG": found.ndcg}


score("popularity", np.ones((len(train.row_names), 1)), (train.X > 0).sum(axis=0)[None])

# %%
# Fit
# ---
#
# :class:`fastpmf.PoissonNMF` with a prior gives the most probable W (users × components) and H (components × items);
# ``"auto"`` is a weak prior for both. :class:`fastpmf.HPF`, hierarchical Poisson factorization, infers posterior
# distributions instead. Six components for now.

for name, prepare in preparations.items():
    X = Dataset(prepare(train.X), train.row_names, train.column_names)
    model = PoissonNMF(6, prior_W="auto", prior_H="auto", random_state=0)
    score(f"PoissonNMF, {name}", model.fit_transform(X), model.components_)
    model = HPF(6, tol=1e-3, random_state=0)
    score(f"HPF, {name}", model.fit_transform(X), model.components_)

masked = PoissonNMF(6, prior_W="auto", prior_H="auto", random_state=0)
W = masked.fit_transform(data.X.sign(), mask=test.X > 0)
score("PoissonNMF, x > 0, masked", W, masked.components_)

pd.DataFrame(table).T.round(3)

# %%
# With raw counts both models are worse than popularity: the preparation matters more than the model. The mask of the
# hidden purchases *seems* to help. It does not: every masked entry is a purchase, so the model was given the answer.

# sphinx_gallery_thumbnail_number = 2
scores = pd.DataFrame(table).T.iloc[:-1]
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
colors = ["tab:gray"] + ["tab:blue", "tab:orange"] * 3
ax.barh(scores.index, scores["recall"], color=colors)
ax.axvline(scores["recall"]["popularity"], color="tab:gray", linestyle=":")
ax.set(xlabel="recall among ten recommended items")
ax.invert_yaxis()
ax.spines[["top", "right"]].set_visible(False)

# %%
# How many components
# -------------------
#
# Choose the number, and the prior, by the score on hidden purchases. For this, hide other purchases than those of the
# final test: a score that was used to choose is too good.

part, validation = split_entries(train, 0.2, random_state=1)
bought = Dataset(part.X.sign(), part.row_names, part.column_names)
numbers = [2, 4, 6, 8, 12, 20, 30]
options = {"tol": 1e-3, "random_state": 0}
candidates = {
    "auto": lambda k: PoissonNMF(k, prior_W="auto", prior_H="auto", **options),
    "sparse": lambda k: PoissonNMF(k, prior_W="sparse", prior_H="sparse", **options),
    "HPF": lambda k: HPF(k, learn_prior=True, **options),
}
fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for name, make in candidates.items():
    recalls = []
    for k in numbers:
        model = make(k)
        W = model.fit_transform(bought)
        scores = ranking_scores(validation, W, model.components_, 10, exclude=part)
        recalls.append(scores.recall)
    ax.plot(numbers, recalls, marker="o", label=name)
    print(f"{name:8}", " ".join(f"{r:.3f}" for r in recalls))
ax.set(xlabel="components", ylabel="recall among ten")
ax.legend()
ax.spines[["top", "right"]].set_visible(False)

# %%
# Six components, one for each department, are best for the two priors of ``PoissonNMF``. ``HPF`` with ``learn_prior``
# empties components that the counts do not support, and loses less if there are too many. Real purchases usually need
# more components; :doc:`/guide/recommenders` has figures on public data.
#
# Recommend
# ---------
#
# Fit all purchases with what was chosen. :meth:`fastpmf.PoissonNMF.recommend` gives the items with the highest rates
# that the user does not have yet. Users can be given by name.

bought = Dataset(data.X.sign(), data.row_names, data.column_names)
model = PoissonNMF(6, prior_W="auto", prior_H="auto", random_state=0)
W = model.fit_transform(bought)
best = model.recommend(bought, W, n=5, rows=["user 1", "user 2", "user 3"])
pd.DataFrame(best.names, index=best.row_names)

# %%
# To recommend only items in stock, give them as ``items``:

in_stock = ["coffee 9", "baking 30", "toys 12", "toys 20"]
best = model.recommend(bought, W, n=2, rows=["user 1"], items=in_stock)
print(best.names[0])

# %%
# The components explain the recommendations: each is a distribution over items, and a user's row of W says how much of
# each component the user buys.

import fastpmf.plot

axes = fastpmf.plot.top_features(model, 6)

# %%
# Similar items
# -------------
#
# "Who likes this also likes": :meth:`fastpmf.PoissonNMF.similar_items` finds items whose rates rise and fall together
# with those of a given one, whether or not they are popular.

similar = model.similar_items(["garden 12", "toys 3"], n=4)
pd.DataFrame(similar.names, index=similar.row_names)

# %%
# New users
# ---------
#
# A new user needs no new fit. Without W, ``recommend`` finds the user's row of W by
# :meth:`fastpmf.PoissonNMF.transform`, with H unchanged. Three purchases are enough for a guess. ``aligned`` puts them
# into the columns of the model.

dora = Dataset.from_entries(["dora"] * 3, ["coffee 2", "coffee 9", "paper 1"])
dora = dora.aligned(model.feature_names_in_).data
print("recommended:", model.recommend(dora, n=5).names[0])
print("shares of the components:", model.to_topics(model.transform(dora)).mixtures.round(2)[0])

# %%
# A user without any purchases gets the items with the highest rates on average: the most popular ones.

nobody = Dataset(np.zeros((1, len(model.feature_names_in_))), ["new"], model.feature_names_in_)
print(model.recommend(nobody, n=5).names[0])

# %%
# New items
# ---------
#
# A new item has no column in H. Once a few users have bought it, fit its column alone, with W fixed and the prior of
# the model, and append it to H. We draw a new item of the coffee department:

likes = taste[[int(name.split()[1]) for name in data.row_names], 0]  # of coffee
sales = rng.poisson(0.3 * likes)[:, None] > 0
print(sales.sum(), "users have bought it")

new = PoissonNMF(6, prior_H=model.prior_H_).fit(sales, fixed_W=W)
names = [*model.feature_names_in_, "coffee new"]
H = pd.DataFrame(np.hstack([model.components_, new.components_]), columns=names)

# %%
# The functions :func:`fastpmf.similar_columns` and :func:`fastpmf.recommend` do the same as the methods for any W and
# H:

from fastpmf import recommend, similar_columns

print("similar to it:", similar_columns(H, "coffee new", 5).names[0])
known = scipy.sparse.hstack([data.X, sales.astype(int)])
rates = recommend(W, H, 1, exclude=known, items=["coffee new"]).rates[:, 0]
for i in np.argsort(np.where(np.isnan(rates), -1, rates))[::-1][:3]:
    print(f"{data.row_names[i]}: rate {rates[i]:.2f}, true share of coffee {likes[i]:.2f}")

# %%
# About an item that nobody has bought this model knows nothing. Show it to some users at random, or give it the column
# of a similar item to start with.
#
# What next
# ---------
#
# * :doc:`/guide/recommenders` has the recipe in short, and scores on public data.
# * After ``model.save("model.npz")``, the command ``fastpmf recommend`` gives recommendations; see
#   :doc:`/guide/command_line`.
# * :ref:`sphx_glr__generated_tutorials_plot_large.py` is for purchases that do not fit in memory.
