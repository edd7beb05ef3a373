"""The order of the tutorials and of the gallery."""

ORDER = [
    "plot_text.py",
    "plot_single_cells.py",
    "plot_recommender.py",
    "plot_signatures.py",
    "plot_large.py",
]


def position(name: str) -> tuple[int, str]:
    """Sort key of a script; those that are not listed come last, by name."""
    return (ORDER.index(name) if name in ORDER else len(ORDER)), name
