"""Counts that every machine has: the words of Python's own library, and draws from the model with the truth beside."""

import keyword
import re
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import brentq
from sklearn.utils import check_scalar

from fastpmf.counts import COUNT_DTYPES, Dataset
from fastpmf.kernels.draw import ROWS_AT_ONCE, alias_tables, close_gaps, draw_rows
from fastpmf.kernels.threads import current_threads, threads
from fastpmf.utils.validation import check_number, random_generator

# camelCase, CONSTANT and digits: "parseHTMLDoc2" is parse, html, doc
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_NOT_MODULES = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "__phello__"}
_EVERYWHERE = {*map(str.lower, keyword.kwlist), *keyword.softkwlist, "self", "cls", "args", "kwargs"}


def load_stdlib(*, min_words: int = 200, min_modules: int = 3, max_share: float = 0.5) -> Dataset:
    """Modules x words counts of the running Python's standard library, tests left out.

    Identifiers are split at case and underscores into lower-case words of three letters or more, wherever they stand:
    in code, comments and documentation. A Python of other version has other modules, so the counts differ a little.

    Parameters
    ----------
    min_words : int, default=200
        Modules with fewer words are left out.
    min_modules : int, default=3
        Words found in fewer modules are left out.
    max_share : float, default=0.5
        Words found in more than this share of the modules are left out.

    Returns
    -------
    Dataset
        X, row_names (dotted module names) and column_names (words); a few hundred rows and thousands of columns.

    Raises
    ------
    FileNotFoundError
        This Python comes without the source of its library (a frozen or zipped one).
    TypeError, ValueError
        If an argument has an invalid type or value, or no word is left.

    Examples
    --------
    >>> from fastpmf.datasets import load_stdlib
    >>> X, modules, words = load_stdlib()
    >>> "argparse" in modules, X.shape == (len(modules), len(words))
    (True, True)
    """
    for name, least in (("min_words", min_words), ("min_modules", min_modules)):
        check_scalar(least, name, (int, np.integer), min_val=0)
    check_number(max_share, "max_share")
    root = Path(sysconfig.get_path("stdlib"))
    names, counts = [], []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if _NOT_MODULES.isdisjoint(parts) and not any(part.startswith(("lib2to3", "config-")) for part in parts):
            words = _words(path)
            if words.total() >= min_words:
                names.append(".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts))
                counts.append(words)
    if not names:
        raise FileNotFoundError(f"no Python source with at least {min_words} words under {root}")
    spread = Counter(word for words in counts for word in words)
    vocabulary = sorted(w for w, n in spread.items() if min_modules <= n <= max_share * len(counts))
    if not vocabulary:
        raise ValueError(f"min_modules={min_modules} and max_share={max_share} leave no word of {len(spread):,}")
    number = {word: j for j, word in enumerate(vocabulary)}
    entries = [(number[w], n) for words in counts for w, n in sorted(words.items()) if w in number]
    indptr = np.cumsum([0] + [sum(w in number for w in words) for words in counts])
    columns, data = np.array(entries, dtype=np.int32).reshape(-1, 2).T
    X = sparse.csr_array((data, columns, indptr.astype(np.int32)), shape=(len(names), len(vocabulary)))
    return Dataset(X, np.array(names), np.array(vocabulary))


def _words(path: Path) -> Counter[str]:
    try:
        with tokenize.open(path) as file:  # in the encoding that the source declares
            text = file.read()
    except (SyntaxError, UnicodeDecodeError, OSError):
        return Counter()  # an example of bad source, or a broken link, is no module
    found = (part.lower() for name in _IDENTIFIER.findall(text) for part in _WORD.findall(name))
    return Counter(word for word in found if len(word) >= 3 and word not in _EVERYWHERE)


class PoissonCounts(NamedTuple):
    """Counts and the factors that they were drawn from: X_ij ~ Poisson((W H)_ij).

    Attributes
    ----------
    X : csr_array of shape (n_samples, n_features)
        uint8, uint16 or int32, the smallest that holds them; columns ascend in every row.
    W : ndarray of shape (n_samples, n_components), float64
    H : ndarray of shape (n_components, n_features), float64
    """

    X: sparse.csr_array
    W: np.ndarray
    H: np.ndarray


def make_poisson_counts(
    n_samples: int,
    n_features: int,
    n_components: int = 10,
    *,
    nnz: int,
    skew: float = 0.0,
    concentration: float = 0.3,
    random_state: Any = None,
    n_threads: int | None = None,
) -> PoissonCounts:
    """Draw counts from the model, with about `nnz` nonzeros, without ever forming W H.

    A row's total is Poisson; each of its counts falls on a component, then on a column, which splits the total
    multinomially: the entries are then independent Poisson counts with the rates W H, exactly.

    Parameters
    ----------
    n_samples, n_features, n_components : int
        At least 1.
    nnz : int
        Nonzeros to expect, below n_samples * n_features. What comes differs by a few times its square root, and by
        some per cent where skew is high.
    skew : float, default=0.0
        Sums of rows and of columns fall like rank ** -skew, in random order: 0 for none, 1 for words in documents.
    concentration : float, default=0.3
        Shape of the Gamma distribution that W and H are drawn from, > 0: the smaller, the fewer components matter in a
        row, and the fewer columns in a component.
    random_state : int, RandomState, Generator or None, default=None
        Equal seeds give equal counts, for any number of threads.
    n_threads : int or None, default=None
        None or -1: as many as the process may use.

    Returns
    -------
    PoissonCounts
        X, W and H.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    Examples
    --------
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X, W, H = make_poisson_counts(200, 100, 5, nnz=2_000, random_state=0)
    >>> X.shape, W.shape, H.shape, abs(X.nnz - 2_000) < 200
    ((200, 100), (200, 5), (5, 100), True)
    """
    for name, size in (("n_samples", n_samples), ("n_features", n_features), ("n_components", n_components)):
        check_scalar(size, name, (int, np.integer), min_val=1)
    check_scalar(nnz, "nnz", (int, np.integer), min_val=1)
    check_number(skew, "skew")
    check_number(concentration, "concentration", positive=True)
    if nnz >= n_samples * n_features:
        raise ValueError(
            f"nnz must be below n_samples * n_features = {n_samples * n_features}, of which it is a part, got {nnz}"
        )
    if n_features > np.iinfo(np.int32).max:
        raise ValueError(f"n_features must be at most 2**31 - 1, got {n_features}")
    rng = random_generator(random_state)
    W, H = (
        rng.standard_gamma(concentration, (m, n_components)) * rng.permutation(np.arange(1.0, m + 1) ** -skew)[:, None]
        for m in (n_samples, n_features)
    )
    H = np.ascontiguousarray(H.T)
    if not (W.any() and (W.max(axis=0) * H.max(axis=1)).any()):
        raise ValueError(f"concentration={concentration} is so small that all rates are 0 in float64")
    W *= _scale(W, H, nnz)
    share = W * H.sum(axis=1)
    starts = np.zeros(n_samples + 1, np.int64)
    np.cumsum(rng.poisson(share.sum(axis=1)), out=starts[1:])
    seed = rng.integers(2**62, size=1) if isinstance(rng, np.random.Generator) else rng.randint(2**62, size=1)
    with threads(n_threads):
        table, other = np.empty(H.shape), np.empty(H.shape, np.int32)
        waiting = np.empty((current_threads(), n_features), np.int64)
        alias_tables(n_components, np.where(H.any(axis=1, keepdims=True), H, 1.0), table, other, waiting)
        columns, lengths = np.empty(starts[-1], np.int32), np.empty(n_samples, np.int64)
        for dtype in COUNT_DTYPES[:3]:
            data = np.empty(starts[-1], dtype)
            draw_rows(
                -(-n_samples // ROWS_AT_ONCE), int(seed[0]), int(np.iinfo(dtype).max), starts, share, table, other,
                columns, data, lengths, np.empty((current_threads(), n_components)),
            )  # fmt: skip
            if (lengths >= 0).all():
                break
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        close_gaps(1, starts, indptr, columns, data)
    for array in (columns, data):
        array.resize(indptr[-1], refcheck=False)
    if len(columns) <= np.iinfo(np.int32).max:  # scipy has one dtype for both
        indptr = indptr.astype(np.int32)
    return PoissonCounts(sparse.csr_array((data, columns, indptr), shape=(n_samples, n_features)), W, H)


def _scale(W: np.ndarray, H: np.ndarray, nnz: int) -> float:
    """The factor of W with which W H is expected to have `nnz` nonzeros, from a sample of rows of all sizes."""
    # Strata of rows by size, those of the largest rows narrow, each told by its middle row
    n, n_strata = len(W), int(np.clip((1 << 22) // H.shape[1], 16, 1024))
    edges = np.concatenate([np.linspace(0, n, n_strata // 2), n - np.geomspace(1, n, n_strata // 2), [n]])
    edges = np.unique(edges.round().astype(int))
    rows = np.argsort(W @ H.sum(axis=1))[(edges[:-1] + edges[1:]) // 2]
    weights, rates = np.diff(edges), W[rows] @ H

    def excess(log_scale: float) -> float:
        return float(-weights @ np.expm1(-np.exp(log_scale) * rates).sum(axis=1)) - nnz

    low = float(np.log(nnz / (weights @ rates.sum(axis=1))))  # as if every count had an entry of its own
    high = low + 1
    while excess(high) < 0:
        high += 1
        if high > low + 20:
            raise ValueError(
                f"nnz={nnz} needs rates too large, as so many of {W.shape[0]} x {H.shape[1]} entries hardly have any; "
                "a smaller nnz, a lower skew, or a larger concentration can be had"
            )
    return float(np.exp(brentq(excess, low, high, rtol=1e-6)))
