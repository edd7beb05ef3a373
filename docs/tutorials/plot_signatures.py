"""
Mutational signatures
=====================

In this tutorial some components are known and others are to be found: fit counts of mutations with known signatures
fixed, discover an unknown one, check that it is real, and find the exposures of new samples with their uncertainty. The
same steps apply to other counts with known parts, such as spectra with known emission lines or tissues with known cell
types.

The signatures of this page are made up and the counts are drawn from them, so that the truth is known. For real
work take the known ones from a catalogue such as COSMIC.

It needs ``pip install fastpmf pandas matplotlib``.
"""

# %%
# Counts in 96 channels
# ---------------------
#
# Single-base substitutions are counted in 96 channels: six substitutions, each with four bases before and four after.
# We draw four known signatures and a fifth that we will pretend not to know.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

substitutions = ["C>A", "C>G", "C>T", "T>A", "T>C", "T>G"]
channels = [f"{left}[{s}]{right}" for s in substitutions for left in "ACGT" for right in "ACGT"]
signatures = ["aging", "flat", "smoke", "repair", "unknown"]

rng = np.random.default_rng(0)
strength = {  # of each substitution
    "aging": [0.2, 0.1, 5, 0.2, 0.5, 0.1],
    "flat": [1, 1, 1, 1, 1, 1],
    "smoke": [6, 0.5, 0.5, 1, 0.3, 0.2],
    "repair": [0.3, 0.2, 1, 0.3, 4, 1],
    "unknown": [0.1, 2, 1.5, 0.1, 0.1, 2],
}
shape = np.array([0.3, 8, 1, 1, 0.5])[:, None]  # low: a few high peaks
truth = np.array([np.repeat(strength[s], 16) for s in signatures])
truth = truth * rng.gamma(shape, size=(5, 96))
truth /= truth.sum(axis=1, keepdims=True)

# %%
# A channel can mutate only where its three bases occur. How often they do, the *opportunity*, differs between channels,
# and between exomes and genomes. Signatures are rates per opportunity, so that they can be compared between both.
#
# A sample has some of the signatures, each with an exposure: the number of mutations that it adds at an opportunity
# of 1.

opportunity = rng.gamma(4, 0.25, 96)
samples = [f"sample {i}" for i in range(150)]
exposures = rng.gamma(1, 250, (150, 5)) * (rng.random((150, 5)) < [0.9, 0.8, 0.4, 0.5, 0.3])
X = pd.DataFrame(rng.poisson(exposures @ truth * opportunity), samples, channels)
print(f"{X.to_numpy().sum():,} mutations, median {X.sum(axis=1).median():.0f} in a sample")
X.iloc[:5, :6]

# %%
# Fix what is known
# -----------------
#
# ``fixed_H`` holds what is known of H, one row for each component, and NaN where it is free. The opportunities are
# ``column_exposure``. A DataFrame with names is aligned with X by its columns, whatever their order.

from fastpmf import PoissonNMF

known = pd.DataFrame(truth[:4], signatures[:4], channels)
one_free = pd.concat([known, pd.DataFrame(np.nan, ["new"], channels)])
model = PoissonNMF(5, random_state=0)
W = model.fit_transform(X, fixed_H=one_free, column_exposure=opportunity)
print(model.status_)
print("known signatures unchanged:", np.array_equal(model.components_[:4], known))

# %%
# Was it found?
# -------------
#
# :func:`fastpmf.match_components` pairs the components of two fits one to one, here those of the fit with the truth,
# and gives their similarity: 1 for equal distributions. It does not depend on the scale of components, which is
# arbitrary: H can be multiplied and W divided by the same number. To compare exposures, divide each signature by its
# sum and multiply W.

from fastpmf import match_components

partners, similarity = match_components(model.components_, truth)
print("partner of the new component:", signatures[partners[4]])
print(f"similarity: {similarity[4]:.3f}")

scale = model.components_.sum(axis=1)
found, W = model.components_ / scale[:, None], W * scale

colors = np.repeat(["tab:" + c for c in ["blue", "gray", "red", "olive", "green", "pink"]], 16)
fig, axes = plt.subplots(2, figsize=(8, 3.6), sharex=True, layout="constrained")
signature_of = {"unknown signature": truth[4], "found": found[4]}
for ax, (title, rates) in zip(axes, signature_of.items(), strict=True):
    ax.bar(range(96), rates, color=colors)
    ax.set(ylabel=title, yticks=[], xlim=(-1, 96))
    ax.spines[["top", "right"]].set_visible(False)
axes[1].set_xticks(np.arange(6) * 16 + 7.5, substitutions)
axes[1].tick_params(length=0)

# %%
# The exposures are right too, those of the known signatures as well:

fig, axes = plt.subplots(
    1, 5, figsize=(10, 2.5), layout="constrained", sharex=True, sharey=True
)
for ax, signature, true, estimated in zip(axes, signatures, exposures.T, W.T, strict=True):
    ax.axline((0, 0), slope=1, color="tab:gray", linewidth=1)
    ax.plot(true, estimated, ".", markersize=4)
    ax.set(title=signature, xlabel="true exposure")
    print(f"{signature:8} correlation {np.corrcoef(true, estimated)[0, 1]:.3f}")
axes[0].set_ylabel("estimated")

# %%
# How many are unknown?
# ---------------------
#
# With real data the truth is unknown. Held-out mutations decide instead: :func:`fastpmf.thin_counts` moves each
# mutation with probability 0.2 to a second part, independent of the first. Fit the first part with the known
# signatures and zero to three free ones, and compare the log-likelihoods of the second. A weak prior keeps rates above
# zero, so that no held-out mutation is impossible.

from fastpmf import poisson_log_likelihood, thin_counts

train, test = thin_counts(X, 0.2, random_state=0)
for n_free in range(4):
    fixed = np.vstack([known, np.full((n_free, 96), np.nan)])
    candidate = PoissonNMF(4 + n_free, prior_W=(1.1, 0.001), prior_H=(1.1, 0.1), random_state=0)
    weights = candidate.fit_transform(train, fixed_H=fixed, column_exposure=opportunity)
    rates = candidate.components_ * opportunity * 0.2 / 0.8
    score = poisson_log_likelihood(test, weights, rates) / test.X.sum()
    print(f"{n_free} free: {score:.4f} nats per mutation")

# %%
# One free signature explains the held-out mutations much better than none, and a second adds nothing.
#
# Is it stable?
# -------------
#
# Each random start may end in another local optimum. Fit from several, and compare what was found.

starts = [
    PoissonNMF(5, random_state=seed).fit(X, fixed_H=one_free, column_exposure=opportunity)
    for seed in range(10)
]
new = np.array([start.components_[4] for start in starts])
objectives = np.array([start.objective_ for start in starts])
likeness = [match_components(new[:1], each[None])[1][0] for each in new]
print(f"objectives from {objectives.min():.2f} to {objectives.max():.2f}")
print(f"similarity of the new signatures at least {min(likeness):.4f}")

# %%
# All starts agree. The sample is another source of uncertainty: other patients would have other counts. Draw patients
# with replacement, fit again, and look at the spread of each channel.

resampled = []
for seed in range(20):
    rows = np.random.default_rng(seed).integers(150, size=150)
    again = PoissonNMF(5, random_state=0)
    again.fit(X.to_numpy()[rows], fixed_H=one_free, column_exposure=opportunity)
    resampled.append(again.components_[4] / again.components_[4].sum())
low, high = np.quantile(resampled, [0.05, 0.95], axis=0)

fig, ax = plt.subplots(figsize=(8, 2.4), layout="constrained")
ax.bar(range(96), found[4], color=colors)
ax.vlines(range(96), low, high, color="black", linewidth=1)
ax.set_xticks(np.arange(6) * 16 + 7.5, substitutions)
ax.set(ylabel="found, 90 % interval", yticks=[], xlim=(-1, 96))
ax.tick_params(length=0)
ax.spines[["top", "right"]].set_visible(False)

# %%
# New samples: refit
# ------------------
#
# Once all signatures are known, the exposures of a new sample are the solution of a convex problem, which
# :meth:`fastpmf.PoissonNMF.transform` finds. There are no starts and no local optima. ``return_gap_bound`` returns for
# each sample a bound of the distance from the optimum, in nats.

true = np.array([[300, 150, 0, 0, 120]])
patient = pd.DataFrame(rng.poisson(true @ truth * opportunity), ["patient"], channels)
estimate, gap = model.transform(patient, return_gap_bound=True)
estimate *= scale
print(f"{patient.to_numpy().sum()} mutations, gap {gap[0]:.1e} nats")

# %%
# How certain is this? Draw the patient's mutations again, with replacement, a thousand times. One call of ``transform``
# takes all thousand as rows.

x = patient.to_numpy()[0]
draws = pd.DataFrame(rng.multinomial(x.sum(), x / x.sum(), size=1000), columns=channels)
again = model.transform(draws) * scale
table = pd.DataFrame({"true": true[0], "estimate": estimate[0]}, signatures)
table["5 %"], table["95 %"] = np.quantile(again, [0.05, 0.95], axis=0)
table.round()

# %%
# A rate without any signature
# ----------------------------
#
# Sequencing errors add mutations to every sample, whatever its signatures. If their rate is known, for example from
# controls, give it as ``background``: a rate per opportunity in each channel. Without it, errors count as mutations of
# the known signatures that resemble them.

errors = np.where(np.char.find(channels, "C>A") >= 0, 3.0, 0.1)
noisy = X + rng.poisson(errors * opportunity, X.shape)
known_parts = {"fixed_H": one_free, "column_exposure": opportunity}
mean_error = pd.DataFrame(index=signatures[:4])
for name, background in (("without background", None), ("with background", errors)):
    fit = PoissonNMF(5, random_state=0)
    fitted = fit.fit_transform(noisy, background=background, **known_parts)
    mean_error[name] = (fitted - exposures).mean(axis=0)[:4]
mean_error.round(1)

# %%
# What next
# ---------
#
# * :doc:`/guide/priors` has more of what may be known beside the counts: masks, row exposures, weights, structural
#   zeros.
# * :doc:`/guide/choosing_k` is about the number of components if none of them is known.
# * :doc:`/guide/stability` measures how far solutions of different starts agree.
# * ``model.save("signatures.npz")`` keeps the model for new samples, and ``model.report("report.html", X)`` writes a
#   report on it.
