"""Example counts: words in the modules of Python's standard library, and random counts from the model."""

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

# Splits camelCase and drops digits: "parseHTMLDoc2" is parse, html, doc
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_NOT_MODULES = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "__phello__"}
_STOP_WORDS = {*map(str.lower, keyword.kwlist), *keyword.softkwlist, "self", "cls", "args", "kwargs"}


def load_stdlib(*, min_words: int = 200, min_modules: int = 3, max_share: float = 0.5) -> Dataset:
    """Counts of words (columns) in the modules (rows) of Python's standard library, without its tests.

    Words are identifiers in code, comments and docstrings, split at underscores and changes of case, in lower case and
    of at least three letters. The counts depend on the version of Python.

    Parameters
    ----------
    min_words : int, default=200
        Modules with fewer words are excluded.
    min_modules : int, default=3
        Words that occur in fewer modules are excluded.
    max_share : float, default=0.5
        Words that occur in more than this fraction of the modules are excluded.

    Returns
    -------
    Dataset
        X, row_names (dotted module names) and column_names (words); a few hundred rows and thousands of columns.

    Raises
    ------
    FileNotFoundError
        If Python is installed without the source of its library, as in frozen or zipped installations.
    TypeError, ValueError
        If an argument has an invalid type or value, or no word is left.

    See Also
    --------
    fastpmf.datasets.make_poisson_counts : random counts with known factors.

    Examples
    --------
    >>> from fastpmf.datasets import load_stdlib
    >>> X, modules, words = load_stdlib()
    >>> "argparse" in modules, X.shape == (len(modules), len(words))
    (True, True)
    """
    check_scalar(min_words, "min_words", (int, np.integer), min_val=0)
    check_scalar(min_modules, "min_modules", (int, np.integer), min_val=0)
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
    n_modules = Counter(word for words in counts for word in words)
    vocabulary = sorted(word for word, n in n_modules.items() if min_modules <= n <= max_share * len(counts))
    if not vocabulary:
        raise ValueError(f"min_modules={min_modules} and max_share={max_share} exclude all {len(n_modules):,} words")
    column = {word: j for j, word in enumerate(vocabulary)}
    entries = [(column[word], n) for words in counts for word, n in sorted(words.items()) if word in column]
    indptr = np.cumsum([0] + [sum(word in column for word in words) for words in counts])
    columns, data = np.array(entries, dtype=np.int32).reshape(-1, 2).T
    X = sparse.csr_array((data, columns, indptr.astype(np.int32)), shape=(len(names), len(vocabulary)))
    return Dataset(X, np.array(names), np.array(vocabulary))


def _words(path: Path) -> Counter[str]:
    """Counts of the words in a source file; empty if it is not valid source or cannot be opened."""
    try:
        with tokenize.open(path) as file:  # in the encoding that the source declares
            text = file.read()
    except (SyntaxError, UnicodeDecodeError, OSError):
        return Counter()
    words = (part.lower() for name in _IDENTIFIER.findall(text) for part in _WORD.findall(name))
    return Counter(word for word in words if len(word) >= 3 and word not in _STOP_WORDS)


class PoissonCounts(NamedTuple):
    """Counts and the factors from which they are drawn: X_ij ~ Poisson((W H)_ij).

    Attributes
    ----------
    X : csr_array of shape (n_samples, n_features)
        Of uint8, uint16 or int32, the smallest that holds the counts, in canonical format.
    W : ndarray of shape (n_samples, n_components), float64
    H : ndarray of shape (n_components, n_features), float64

    See Also
    --------
    fastpmf.datasets.make_poisson_counts : draws them.

    Examples
    --------
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X, W, H = make_poisson_counts(20, 10, 2, nnz=50, random_state=0)
    >>> X.shape, W.shape, H.shape
    ((20, 10), (20, 2), (2, 10))
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
    """Draw counts with about `nnz` nonzeros from the model, without computing W H.

    The total of each row is drawn from its Poisson distribution, then a component and a column for each of its units.
    By the multinomial splitting of Poisson counts, the entries are independent and Poisson with rates W H, exactly.

    Parameters
    ----------
    n_samples, n_features, n_components : int
        At least 1.
    nnz : int
        Expected number of nonzeros, less than n_samples * n_features. The actual number differs by a few times its
        square root, and by a few per cent if `skew` is high.
    skew : float, default=0.0
        Row and column sums decrease like rank ** -skew, in random order; about 1 for words in documents.
    concentration : float, default=0.3
        Shape of the Gamma distribution of W and H, > 0. With a smaller shape, rows have fewer dominant components, and
        components fewer dominant columns.
    random_state : int, RandomState, Generator or None, default=None
        The counts do not depend on the number of threads.
    n_threads : int or None, default=None
        Number of threads; None or -1: all that the process may use.

    Returns
    -------
    PoissonCounts
        X, W and H.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    fastpmf.datasets.load_stdlib : real words.

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
        raise ValueError(f"nnz must be below n_samples * n_features = {n_samples * n_features}, got {nnz}")
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
    weights = W * H.sum(axis=1)
    starts = np.zeros(n_samples + 1, np.int64)
    np.cumsum(rng.poisson(weights.sum(axis=1)), out=starts[1:])
    seed = rng.integers(2**62, size=1) if isinstance(rng, np.random.Generator) else rng.randint(2**62, size=1)
    with threads(n_threads):
        probability, alias = np.empty(H.shape), np.empty(H.shape, np.int32)
        queue = np.empty((current_threads(), n_features), np.int64)
        alias_tables(n_components, np.where(H.any(axis=1, keepdims=True), H, 1.0), probability, alias, queue)
        columns, lengths = np.empty(starts[-1], np.int32), np.empty(n_samples, np.int64)
        for dtype in COUNT_DTYPES[:3]:
            data = np.empty(starts[-1], dtype)
            draw_rows(
                -(-n_samples // ROWS_AT_ONCE), int(seed[0]), int(np.iinfo(dtype).max), starts, weights, probability,
                alias, columns, data, lengths, np.empty((current_threads(), n_components)),
            )  # fmt: skip
            if (lengths >= 0).all():
                break
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        close_gaps(1, starts, indptr, columns, data)
    for array in (columns, data):
        array.resize(indptr[-1], refcheck=False)
    if len(columns) <= np.iinfo(np.int32).max:  # scipy requires one dtype for both index arrays
        indptr = indptr.astype(np.int32)
    return PoissonCounts(sparse.csr_array((data, columns, indptr), shape=(n_samples, n_features)), W, H)


def _scale(W: np.ndarray, H: np.ndarray, nnz: int) -> float:
    """The factor of W for which `nnz` nonzeros are expected, estimated from a stratified sample of the rows."""
    # Strata of rows by sum, narrow for the largest sums; the middle row represents each
    n, n_strata = len(W), int(np.clip((1 << 22) // H.shape[1], 16, 1024))
    edges = np.concatenate([np.linspace(0, n, n_strata // 2), n - np.geomspace(1, n, n_strata // 2), [n]])
    edges = np.unique(edges.round().astype(int))
    rows = np.argsort(W @ H.sum(axis=1))[(edges[:-1] + edges[1:]) // 2]
    weights, rates = np.diff(edges), W[rows] @ H

    def excess(log_scale: float) -> float:
        return float(-weights @ np.expm1(-np.exp(log_scale) * rates).sum(axis=1)) - nnz

    low = float(np.log(nnz / (weights @ rates.sum(axis=1))))  # each count in a separate entry
    high = low + 1
    while excess(high) < 0:
        high += 1
        if high > low + 20:
            raise ValueError(
                f"nnz={nnz} needs too large rates, as most of {W.shape[0]} x {H.shape[1]} entries have a rate near 0: "
                "give a smaller nnz, a lower skew, or a larger concentration"
            )
    return float(np.exp(brentq(excess, low, high, rtol=1e-6)))
