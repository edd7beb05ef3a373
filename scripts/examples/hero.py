"""Draw the figure of the README: the topics of Python's standard library.

    python scripts/examples/hero.py

writes docs/_static/hero-light.png and hero-dark.png. Words and modules depend on the version of Python.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

from fastpmf import PoissonNMF, plot
from fastpmf.datasets import load_stdlib

K, N_WORDS = 12, 4
INK = {"light": "#1F2328", "dark": "#E6EDF3"}
FOLDER = Path(__file__).parents[2] / "docs" / "_static"


def main() -> None:
    """Fit, and draw both figures."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    X = load_stdlib()
    model = PoissonNMF(K, prior_W="auto", prior_H="auto", n_init=10, random_state=0)
    W = model.fit_transform(X)
    for theme, ink in INK.items():
        names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
        with plt.rc_context(dict.fromkeys(names, ink) | {"svg.hashsalt": "hero"}):
            figure = draw(model, W)
        figure.savefig(FOLDER / f"hero-{theme}.png", transparent=True, dpi=150)
        plt.close(figure)


def draw(model, W):
    """The structure plot of the modules, and the words of the topics below it."""
    figure = plt.figure(figsize=(8.3, 4.9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.35, 1])
    ax = above.subplots()
    plot.structure(W, model, labels=model.top_features(2).titles(), ax=ax)
    ax.get_legend().remove()
    ax.set(xlabel="", ylabel="share of topics", yticks=[0, 1], yticklabels=["0", "100 %"])
    ax.set_title(f"{K} topics in the source code of Python's standard library", loc="left", fontweight="bold")
    order = model.to_topics(W).mixtures.sum(axis=0).argsort()[::-1]
    axes = below.subplots(2, K // 2)
    plot.top_features(model, N_WORDS, components=order, labels=[""] * K, ax=axes.ravel())
    for panel in axes.flat:
        panel.set(xlabel="", xticks=[])
        panel.spines[:].set_visible(False)
        panel.set_xlim(0, max(bar.get_width() for bar in panel.patches))
    return figure


if __name__ == "__main__":
    main()
