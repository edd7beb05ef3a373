"""Real counts that every machine has: the words of Python's own standard library."""

import keyword
import re
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse

# camelCase, CONSTANT and digits: "parseHTMLDoc2" is parse, html, doc
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_NOT_MODULES = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "__phello__"}
_EVERYWHERE = {*map(str.lower, keyword.kwlist), *keyword.softkwlist, "self", "cls", "args", "kwargs"}


class Dataset(NamedTuple):
    """Counts and what their rows and columns are called.

    Attributes
    ----------
    X : csr_array of shape (n_rows, n_columns), int32
    row_names, column_names : ndarray of str
    """

    X: sparse.csr_array
    row_names: np.ndarray
    column_names: np.ndarray


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

    Examples
    --------
    >>> from fastpmf.datasets import load_stdlib
    >>> X, modules, words = load_stdlib()
    >>> "argparse" in modules, X.shape == (len(modules), len(words))
    (True, True)
    """
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
