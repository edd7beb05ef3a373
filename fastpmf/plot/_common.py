"""Shared by all plots: Axes, colours, and validation of factors, groups and names."""

from typing import Any

import numpy as np

from fastpmf.analysis.topics import to_topics
from fastpmf.counts.labels import Labels, align, align_components, labels_of
from fastpmf.utils.extras import import_optional
from fastpmf.utils.messages import brief, listed, printable
from fastpmf.utils.validation import check_matrix, check_names
from fastpmf.utils.warnings import warn

# Colours of components: six of the palette of M. Okabe and K. Ito (2008), then each as far as possible from all
# previous ones in CIEDE2000, for normal vision, deuteranopes and protanopes, and neither white nor black, so that all
# are seen on both. `scripts/tools/palette.py` computes them.
COLORS = [
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#4B4B2D", "#782D5A",
    "#D2E1A5", "#4BF0E1", "#8778FF", "#3C3C96", "#D2004B", "#4B7878", "#D2B4A5", "#FFE13C",
    "#874B00", "#2DD269", "#C3D2FF", "#D2695A", "#00694B", "#5A5A78", "#F0C3D2", "#B43C96",
    "#78A596", "#3CB4C3", "#FF6987", "#A578C3", "#875A69", "#00960F", "#4B692D", "#A5F078",
]  # fmt: skip
BLUE, GREY = "#2E8BC9", "#8C8C8C"  # seen on white and on black
_LINES = [BLUE, *COLORS[1:6], GREY]
_MARKERS, _DASHES = "os^DvPX", ("-", "--", ":", "-.")
_MAX_NAME_LENGTH = 24


def component_colors(k: int) -> list[str]:
    """Colours of k components. That of a component depends on its number only; after 32 they repeat."""
    return [COLORS[z % len(COLORS)] for z in range(k)]


def text_color(color: str) -> str:
    """Black or white, for text on this colour."""
    red, green, blue = matplotlib_module("colors").to_rgb(color)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"


def line_styles(n: int) -> list[dict[str, Any]]:
    """Styles of n lines: seven colours and markers, with other dashes when they repeat."""
    return [
        {"color": _LINES[i % 7], "marker": _MARKERS[i % 7], "markersize": 4, "linestyle": _DASHES[i // 7 % 4]}
        for i in range(n)
    ]


def single_axes(ax: Any, width: float, height: float) -> Any:
    """`ax`, or the Axes of a new figure of this size in inches."""
    return panels(ax, 1, 1, width, height)[0]


def panels(
    ax: Any, n: int, n_columns: int, width: float, height: float, *, layout: str | None = "constrained", **options: Any
) -> np.ndarray:
    """The n Axes in `ax`, (n,), or those of a new figure with panels of this size in inches."""
    if ax is None:
        n_rows = -(-n // n_columns)
        size = (width * n_columns, height * n_rows)
        _, grid = matplotlib_module("pyplot").subplots(
            n_rows, n_columns, figsize=size, layout=layout, squeeze=False, **options
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


def proportions(W: Any, H: Any, key: str | None = None) -> np.ndarray:
    """P(z|row), (n, k): shares of expected counts, or without H shares of W; zeros for a row without mass.

    `key` is the name of the result in an AnnData object W.
    """
    if hasattr(W, "obsm"):
        W = _result_in(W, key, "" if H is not None else "_topics")
    elif key is not None:
        raise ValueError(f"key is for an AnnData object as W, got {brief(key)} with {type(W).__name__}")
    W, H = align_components([(W, "W", 1), (H, "H", 0)])
    W = check_matrix(W, "W").astype(np.float64)
    return to_topics(W, np.eye(W.shape[1]) if H is None else check_matrix(H, "H").astype(np.float64)).mixtures


def short_component_names(labels: Any, k: int, H: Any, W: Any = None, key: str | None = None) -> list[str]:
    """Names of components, shortened: `labels`, else those of a fitted estimator H or of the result in an AnnData W."""
    if labels is None:
        labels = labels_of(H, 0).names
    if labels is None and hasattr(W, "obsm"):
        key = _key_in(W, key, "")
        labels = W.uns.get({"X_pmf": "pmf", "X_hpf": "hpf"}.get(key, key), {}).get("component_names")
    return short_names(labels, k, "labels", "component")


def _result_in(adata: Any, key: str | None, suffix: str) -> np.ndarray:
    """W of a fit of `fastpmf.anndata`, or with suffix "_topics" its topic proportions."""
    return np.asarray(adata.obsm[f"{_key_in(adata, key, suffix)}{suffix}"])


def _key_in(adata: Any, key: str | None, suffix: str) -> str:
    """The name in `.obsm` of the result that `key` names, or of the only one."""
    results = [name for name in adata.obsm if f"{name}_topics" in adata.obsm]
    if key is None and len(results) == 1:
        key = results[0]
    if not results:
        raise ValueError(
            "W must be an AnnData object with the result of fastpmf.anndata in .obsm, got none: give an array of "
            ".obsm, and a column of .obs as groupby"
        )
    if key is None or f"{key}{suffix}" not in adata.obsm:
        raise ValueError(f"key must be one of the results in .obsm, {listed(results)}, got {brief(key)}")
    return key


def groups_of(groupby: Any, A: Any, name: str, axis: int = 0, argument: str = "groupby") -> Any:
    """The groups of the rows (axis 0) or columns of A, the argument `name`, in their order.

    `groupby` may be a column of `.obs` or `.var` if A is an AnnData object, or has labels if A has some.
    """
    frame_name, item = (".obs", "row") if axis == 0 else (".var", "column")
    labels = labels_of(A, axis)
    if hasattr(A, "obsm"):
        frame = A.obs if axis == 0 else A.var
        labels = Labels(np.asarray(frame.index))
        if isinstance(groupby, str):
            if groupby not in frame:
                raise ValueError(
                    f"{argument} must be one of the columns of {frame_name}, {listed(frame)}, got {brief(groupby)}"
                )
            return frame[groupby]
    elif isinstance(groupby, str):
        raise TypeError(
            f"{argument} must hold a group for each {item}, got {brief(groupby)}: the name of a column of "
            f"{frame_name} needs an AnnData object as {name}"
        )
    return align(groupby, argument, rows=labels._replace(source=name, item=item))


def encode_groups(labels: Any, n: int, name: str, groups: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Names of the groups, (m,), and the group of each row, (n,), -1 for a row that is not drawn.

    Groups are in the order of `groups`; by default in the order of the categories of categorical labels, else sorted.
    Warns about rows without a group.
    """
    categorical = getattr(labels, "cat", labels)
    if hasattr(categorical, "codes") and hasattr(categorical, "categories"):
        codes, names = np.asarray(categorical.codes, np.int64), np.asarray(list(map(str, categorical.categories)))
    else:
        codes, names = _sorted_codes(np.asarray(labels))
    if codes.shape != (n,):
        item = "column" if name == "column_groupby" else "row"
        raise ValueError(f"{name} must have shape ({n},), a group for each {item}, got shape {codes.shape}")
    missing = np.count_nonzero(codes < 0)
    if missing == n:
        raise ValueError(f"{name} must have at least one value, but all are missing")
    if missing:
        warn(f"{name} has no value for {missing} of {n}; these are left out")
    used = names[np.unique(codes[codes >= 0])]
    chosen = used if groups is None else np.atleast_1d(groups).astype(str)
    if chosen.ndim != 1 or not len(chosen) or len(set(chosen)) < len(chosen) or not np.isin(chosen, used).all():
        raise ValueError(
            f"groups must be some of the values of {name}, each once, got {chosen.size}: {listed(chosen.flat)}"
        )
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


def heat_map_size(rows: list[str], columns: list[str]) -> tuple[float, float]:
    """Width and height in inches of a heat map with these names."""
    across, down = (np.clip(len(names), 8, 40) for names in (columns, rows))
    upright = 0.0 if max(map(len, columns)) <= 3 else 0.07 * max(map(len, columns))
    return 1.9 + 0.22 * across + 0.07 * max(map(len, rows)), 1.0 + 0.2 * down + upright


def heat_map(ax: Any, values: np.ndarray, rows: list[str], columns: list[str], label: str, **options: Any) -> None:
    """Draw values (m, n) with a colour bar and the names of up to about 40 rows and columns."""
    image = ax.imshow(values, aspect="auto", interpolation="nearest", **options)
    ax.figure.colorbar(image, ax=ax, label=label)
    for axis, names in ((ax.yaxis, rows), (ax.xaxis, columns)):
        step, font = -(-len(names) // 40), "small" if len(names) <= 24 else "x-small"
        axis.set_ticks(range(0, len(names), step), names[::step], fontsize=font)
    ax.tick_params(length=0)
    if max(map(len, columns)) > 3:
        ax.tick_params(axis="x", rotation=90)


def hide_frame(ax: Any) -> None:
    """Hide the top and right spines."""
    ax.spines[["top", "right"]].set_visible(False)
