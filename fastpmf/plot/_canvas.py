"""What all pictures share: what they are drawn on, in which colours, and what they read of factors and labels."""

from typing import Any

import numpy as np

from fastpmf.analysis.topics import to_topics
from fastpmf.counts.labels import Labels, align_components, labels_of
from fastpmf.utils.extras import import_optional
from fastpmf.utils.messages import listed, printable
from fastpmf.utils.validation import check_array, check_factor, check_names
from fastpmf.utils.warnings import warn

# Those of M. Okabe and K. Ito (2008), then others chosen one by one to be far in CIELAB from all before them, also as
# deuteranopes and protanopes see them. Neighbours differ in lightness: in a stack they touch.
_AREAS = [
    "#E69F00", "#009E73", "#F0E442", "#D55E00", "#56B4E9", "#0072B2", "#CC79A7", "#C3F0A5",
    "#692D0F", "#69FFFF", "#69005A", "#D2A55A", "#2D5A4B", "#1EF0C3", "#003C96", "#FFE178",
    "#69783C", "#4BA5FF", "#785A87", "#3CC3D2", "#964B00", "#FF8796", "#780F2D", "#B4D2FF",
    "#3C4B87", "#87A569", "#0F69C3", "#96962D", "#5A2D4B", "#96D2D2", "#3C8787", "#000000",
]  # fmt: skip
# Yellow is too light for a line on white; what still looks alike to some differs in its marker
_LINES = ["#0072B2", "#D55E00", "#000000", "#56B4E9", "#E69F00", "#CC79A7", "#009E73"]
_MARKERS, _DASHES = "os^DvPX", ("-", "--", ":", "-.")
BLUE, GREY = "#0072B2", "#7F7F7F"
_LONGEST = 24  # characters of a name


def area_colors(k: int) -> list[str]:
    """Of k components; after 32 they come again."""
    shades = [*_AREAS[:7], _AREAS[-1]] if k <= 8 else _AREAS
    return [shades[z % len(shades)] for z in range(k)]


def line_styles(n: int) -> list[dict[str, Any]]:
    """Of n lines: seven colours and markers, dashed when they come again."""
    return [
        {"color": _LINES[i % 7], "marker": _MARKERS[i % 7], "markersize": 4, "linestyle": _DASHES[i // 7 % 4]}
        for i in range(n)
    ]


def one(ax: Any, width: float, height: float) -> Any:
    """`ax`, or the Axes of a new figure of that size in inches."""
    return panels(ax, 1, 1, width, height)[0]


def panels(ax: Any, n: int, n_columns: int, width: float, height: float, **options: Any) -> np.ndarray:
    """The n Axes that `ax` holds, (n,), or those of a new figure, in which each has that size in inches."""
    if ax is None:
        n_rows = -(-n // n_columns)
        size = (width * n_columns, height * n_rows)
        grid = drawing("pyplot").subplots(
            n_rows, n_columns, figsize=size, layout="constrained", squeeze=False, **options
        )[1]  # fmt: skip
        for spare in grid.flat[n:]:
            spare.remove()
        return grid.ravel()[:n]
    given = np.array(ax, dtype=object).ravel()
    if len(given) != n or not all(hasattr(a, "errorbar") for a in given):
        wanted = "a matplotlib Axes" if n == 1 else f"{n} matplotlib Axes"
        raise TypeError(f"ax must be {wanted} or None, got {len(given)} {'/'.join({type(a).__name__ for a in given})}")
    return given


def drawing(part: str) -> Any:
    """A part of matplotlib."""
    return import_optional(f"matplotlib.{part}", "plot", "fastpmf.plot")


def components_of(model: Any, name: str) -> np.ndarray:
    """H of a fitted estimator, or as it is given, (k, p), float64."""
    H = check_array(getattr(model, "components_", model), name)
    if H.ndim != 2 or 0 in H.shape:
        raise ValueError(f"{name} must be a matrix with at least one row and one column, got shape {H.shape}")
    return check_factor(H, H.shape, name).astype(np.float64)


def labels_of_features(model: Any) -> Labels:
    """Names of the features of a fitted estimator, or labels of the columns of H."""
    return Labels(getattr(model, "feature_names_in_", None)) if hasattr(model, "components_") else labels_of(model, 1)


def proportions(W: Any, H: Any) -> np.ndarray:
    """P(z|row), (n, k): of expected counts where H is given, else of W as it is; zeros for a row without any mass."""
    W, H = align_components([(W, "W", 1), (H, "H", 0)])
    W = components_of(W, "W")
    return to_topics(W, np.eye(W.shape[1]) if H is None else components_of(H, "H")).mixtures


def grouped(labels: Any, n: int, name: str, groups: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Names of the groups, (m,), and the group of each row, (n,), -1 for a row that is not drawn.

    Groups are in the order of `groups`, else of the categories of categorical labels, else sorted. A warning says how
    many rows have no label.
    """
    coded = getattr(labels, "cat", labels)
    if hasattr(coded, "codes") and hasattr(coded, "categories"):
        codes, known = np.asarray(coded.codes, np.int64), np.asarray(list(map(str, coded.categories)))
    else:
        codes, known = _sorted_codes(np.asarray(labels))
    if codes.shape != (n,):
        raise ValueError(f"{name} must be {n}, one for each, got shape {codes.shape}")
    missing = np.count_nonzero(codes < 0)
    if missing == n:
        raise ValueError(f"{name} must have at least one value, but all are missing")
    if missing:
        warn(f"{name} has no value for {missing} of {n}; these are left out")
    known_there = known[np.unique(codes[codes >= 0])]  # categories may be unused
    wanted = known_there if groups is None else np.atleast_1d(groups).astype(str)
    if wanted.ndim != 1 or not len(wanted) or len(set(wanted)) < len(wanted) or not np.isin(wanted, known_there).all():
        raise ValueError(f"groups must name some of the {name}, each once, got {wanted.size}: {listed(wanted.flat)}")
    place = {group: g for g, group in enumerate(wanted)}
    return wanted, np.append([place.get(group, -1) for group in known], -1)[codes]


def _sorted_codes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of each label among the sorted unique ones, -1 if it is missing, and the unique ones as str."""
    # NaN, NaT and pandas' NA are not equal to themselves
    missing = np.array([x is None or str(x == x) != "True" for x in labels.ravel()], bool).reshape(labels.shape)
    values = labels[~missing]
    values = values if labels.dtype.kind in "biufU" else values.astype(str)
    codes = np.full(labels.shape, -1)
    known, codes[~missing] = np.unique(values, return_inverse=True)
    return codes, known.astype(str)


def named(names: Any, n: int, name: str, thing: str) -> list[str]:
    """Names of n things, shortened; by default their numbers."""
    return list(map(short, check_names(names, n, name, thing)))


def short(name: str) -> str:
    """A name that leaves room for the picture: without its middle where it is long, and never taken for a formula."""
    name = printable(name)
    name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 9]}…{name[-8:]}"
    return name.replace("$", r"\$")


def number_axis(axis: Any, names: list[str]) -> None:
    """A tick for each row or column of a heat map, as far as they can be read."""
    step = -(-len(names) // 40)
    axis.set_ticks(range(0, len(names), step), names[::step], fontsize="small" if len(names) <= 24 else "x-small")
