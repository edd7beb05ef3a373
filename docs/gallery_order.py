"""For sphinx-gallery: the order of the tutorials and of the gallery, and what warnings look like."""

import warnings
from typing import Any

ORDER = [
    # tutorials
    "plot_text.py",
    "plot_single_cells.py",
    "plot_recommender.py",
    "plot_signatures.py",
    "plot_large.py",
    # gallery
    "plot_structure.py",
    "plot_group_heatmap.py",
    "plot_groups.py",
    "plot_top_features.py",
    "plot_seeds.py",
    "plot_differential.py",
    "plot_similarity.py",
    "plot_consensus.py",
    "plot_intervals.py",
    "plot_selection.py",
    "plot_component_gains.py",
    "plot_convergence.py",
    "plot_calibration.py",
    "plot_residuals.py",
    "plot_overdispersion.py",
    "plot_panels.py",
]


def position(name: str) -> tuple[int, str]:
    """Sort key of a script; those that are not listed come last, by name."""
    return (ORDER.index(name) if name in ORDER else len(ORDER)), name


def show_warnings_without_paths(gallery_conf: dict[str, Any], script: str) -> None:
    """Called before each script: paths depend on the machine."""
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"
