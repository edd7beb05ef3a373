"""Shared by all plots: Axes, colours, and validation of factors, groups and names."""

from typing import Any

import numpy as np

from fastpmf.analysis.topics import to_topics
from fastpmf.counts.labels import Labels, align_components, labels_of
from fastpmf.utils.extras import import_optional
from fastpmf.utils.messages import listed, printable
from fastpmf.utils.validation import check_matrix, check_names
from fastpmf.utils.warnings import warn

# The palette of M. Okabe and K. Ito (2008), then colours chosen one by one to be far from all previous ones in CIELAB,
# also for deuteranopes and protanopes. Neighbours, which touch in a stack, differ in lightness.
_AREAS = [
    "#E69F00", "#009E73", "#F0E442", "#D55E00", "#56B4E9", "#0072B2", "#CC79A7", "#C3F0A5",
    "#692D0F", "#69FFFF", "#69005A", "#D2A55A", "#2D5A4B", "#1EF0C3", "#003C96", "#FFE178",
    "#69783C", "#4BA5FF", "#785A87", "#3CC3D2", "#964B00", "#FF8796", "#780F2D", "#B4D2FF",
    "#3C4B87", "#87A569", "#0F69C3", "#96962D", "#5A2D4B", "#96D2D2", "#3C8787", "#000000",
]  # fmt: skip
# Without yellow, which is too light for a line on white; markers differ too
_LINES = ["#0072B2", "#D55E00", "#000000", "#56B4E9", "#E69F00", "#CC79A7", "#009E73"]
_MARKERS, _DASHES = "os^DvPX", ("-", "--", ":", "-.")
BLUE, GREY = "#0072B2", "#7F7F7F"
_MAX_NAME_LENGTH = 24


def area_colors(k: int) -> list[str]:
    """Colours of k components; after 32 they repeat."""
    palette = [*_AREAS[:7], _AREAS[-1]] if k <= 8 else _AREAS
    return [palette[z % len(palette)] for z in range(k)]


def line_styles(n: int) -> list[dict[str, Any]]:
    """Styles of n lines: seven colours and markers, with other dashes when they repeat."""
    return [
        {"color": _LINES[i % 7], "marker": _MARKERS[i % 7], "markersize": 4, "linestyle": _DASHES[i // 7 % 4]}
        for i in range(n)
    ]


def single_axes(ax: Any, width: float, height: float) -> Any:
    """`ax`, or the Axes of a new figure of this size in inches."""
    return panels(ax, 1, 1, width, height)[0]


def panels(ax: Any, n: int, n_columns: int, width: float, height: float, **options: Any) -> np.ndarray:
    """The n Axes in `ax`, (n,), or those of a new figure with panels of this size in inches."""
    if ax is None:
        n_rows = -(-n // n_columns)
        size = (width * n_columns, height * n_rows)
        _, grid = matplotlib_module("pyplot").subplots(
            n_rows, n_columns, figsize=size, layout="constrained", squeeze=False, **options
        )
        for spare in grid.flat[n:]:
            spare.remove()
        return grid.ravel()[:n]
    given = np.array(ax, dtype=object).ravel()
    if len(given) != n or not all(hasattr(a, "errorbar") for a in given):
        expected = "a matplotlib Axes" if n == 1 else f"{n} matplotlib Axes"
        types = "/".join({type(a).__name__ for a in given})
        raise TypeError(f"ax must be {expected} or None, got {len(given)} {types}")
    return given


def matplotlib_module(name: str) -> Any:
    """The module `matplotlib.<name>`, or an ImportError with the command that installs it."""
    return import_optional(f"matplotlib.{name}", "plot", "fastpmf.plot")


def components_of(model: Any, name: str) -> np.ndarray:
    """H of a fitted estimator, or a given matrix, (k, p), float64."""
    return check_matrix(getattr(model, "components_", model), name).astype(np.float64)


def feature_labels(model: Any) -> Labels:
    """Feature names of a fitted estimator, or labels of the columns of H."""
    return Labels(getattr(model, "feature_names_in_", None)) if hasattr(model, "components_") else labels_of(model, 1)


def proportions(W: Any, H: Any) -> np.ndarray:
    """P(z|row), (n, k): shares of expected counts, or without H shares of W; zeros for a row without mass."""
    W, H = align_components([(W, "W", 1), (H, "H", 0)])
    W = components_of(W, "W")
    return to_topics(W, np.eye(W.shape[1]) if H is None else components_of(H, "H")).mixtures


def encode_groups(labels: Any, n: int, name: str, groups: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Names of the groups, (m,), and the group of each row, (n,), -1 for a row that is not drawn.

    Groups are in the order of `groups`; by default in the order of the categories of categorical labels, else sorted.
    Warns about rows without a label.
    """
    categorical = getattr(labels, "cat", labels)
    if hasattr(categorical, "codes") and hasattr(categorical, "categories"):
        codes, names = np.asarray(categorical.codes, np.int64), np.asarray(list(map(str, categorical.categories)))
    else:
        codes, names = _sorted_codes(np.asarray(labels))
    if codes.shape != (n,):
        raise ValueError(f"{name} must be {n}, one for each, got shape {codes.shape}")
    missing = np.count_nonzero(codes < 0)
    if missing == n:
        raise ValueError(f"{name} must have at least one value, but all are missing")
    if missing:
        warn(f"{name} has no value for {missing} of {n}; these are left out")
    used = names[np.unique(codes[codes >= 0])]
    chosen = used if groups is None else np.atleast_1d(groups).astype(str)
    if chosen.ndim != 1 or not len(chosen) or len(set(chosen)) < len(chosen) or not np.isin(chosen, used).all():
        raise ValueError(f"groups must name some of the {name}, each once, got {chosen.size}: {listed(chosen.flat)}")
    position = {group: g for g, group in enumerate(chosen)}
    return chosen, np.append([position.get(group, -1) for group in names], -1)[codes]


def _sorted_codes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of each label among the sorted unique ones, -1 if it is missing, and the unique ones as str."""
    # NaN, NaT and the NA of pandas do not equal themselves
    missing = np.array([x is None or str(x == x) != "True" for x in labels.ravel()], bool).reshape(labels.shape)
    values = labels[~missing]
    values = values if labels.dtype.kind in "biufU" else values.astype(str)
    codes = np.full(labels.shape, -1)
    unique, codes[~missing] = np.unique(values, return_inverse=True)
    return codes, unique.astype(str)


def short_names(names: Any, n: int, name: str, thing: str) -> list[str]:
    """Names of n things, shortened; by default their numbers."""
    return list(map(shorten, check_names(names, n, name, thing)))


def shorten(name: str) -> str:
    """A printable name, without its middle if it is long, and with $ escaped, so that it is not read as a formula."""
    name = printable(name)
    name = name if len(name) <= _MAX_NAME_LENGTH else f"{name[: _MAX_NAME_LENGTH - 9]}…{name[-8:]}"
    return name.replace("$", r"\$")


def heat_map(ax: Any, values: np.ndarray, rows: list[str], columns: list[str], label: str, **options: Any) -> None:
    """Draw values (m, n) with a colour bar and the names of up to about 40 rows and columns."""
    image = ax.imshow(values, aspect="auto", interpolation="nearest", **options)
    ax.figure.colorbar(image, ax=ax, label=label)
    for axis, names in ((ax.yaxis, rows), (ax.xaxis, columns)):
        step, font = -(-len(names) // 40), "small" if len(names) <= 24 else "x-small"
        axis.set_ticks(range(0, len(names), step), names[::step], fontsize=font)


def hide_frame(ax: Any) -> None:
    """Hide the top and right spines."""
    ax.spines[["top", "right"]].set_visible(False)
