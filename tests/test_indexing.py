"""A `Dataset` has a shape, unpacks into its three parts, and is indexed like a matrix, with its names."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.model_selection import GridSearchCV, train_test_split

from fastpmf import PoissonNMF, as_counts
from fastpmf.io import Dataset, read_counts, write_counts

COUNTS = np.random.default_rng(0).poisson(2.0, (6, 4))
ROWS, COLUMNS = np.array([f"cell{i}" for i in range(6)]), np.array([f"gene{j}" for j in range(4)])


@pytest.fixture(
    params=[sparse.csr_array, sparse.csc_array, sparse.coo_matrix, np.asarray, np.ndarray.tolist, as_counts]
)
def data(request):
    return Dataset(request.param(COUNTS), ROWS, COLUMNS)


def test_a_dataset_has_the_shape_of_its_counts_and_no_length(data):
    assert data.shape == (6, 4)
    with pytest.raises(TypeError, match="has no len"):
        len(data)
    assert "6 x 4" in repr(data)
    assert "gene0" in data._repr_html_()


def test_a_dataset_unpacks_into_counts_and_names(tmp_path):
    write_counts(tmp_path / "counts", Dataset(COUNTS, ROWS, COLUMNS))
    X, rows, columns = read_counts(tmp_path / "counts")
    assert X.toarray().tolist() == COUNTS.tolist()
    assert rows.tolist() == ROWS.tolist()
    assert columns.tolist() == COLUMNS.tolist()


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        (slice(2), [0, 1]), (slice(None, None, -2), [5, 3, 1]), (3, [3]), (-1, [5]), ([4, 0], [4, 0]),
        (COUNTS[:, 0] > 1, np.flatnonzero(COUNTS[:, 0] > 1)),
        (pd.Series(COUNTS[:, 0] > 1), np.flatnonzero(COUNTS[:, 0] > 1)),
        ("cell2", [2]), (["cell5", "cell0"], [5, 0]), (np.array(["cell1"], object), [1]),
    ],
)  # fmt: skip
def test_rows_are_selected_with_their_names(data, rows, chosen):
    part = data[rows]
    assert part.X.toarray().tolist() == COUNTS[chosen].tolist()
    assert part.row_names.tolist() == ROWS[chosen].tolist()
    assert part.column_names.tolist() == COLUMNS.tolist()


def test_rows_and_columns_are_selected_together(data):
    part = data[[4, 0], ["gene3", "gene1", "gene0"]]
    assert part.X.toarray().tolist() == COUNTS[[4, 0]][:, [3, 1, 0]].tolist()
    assert part.column_names.tolist() == ["gene3", "gene1", "gene0"]
    assert data[:, "gene2"].X.toarray().ravel().tolist() == COUNTS[:, 2].tolist()


def test_numbers_are_positions_even_where_names_are_numbers():
    data = Dataset(COUNTS, ["3", "2", "1", "0", "9", "8"])
    assert data[[0, 4]].row_names.tolist() == ["3", "9"]


@pytest.mark.parametrize(
    ("key", "error", "sentence"),
    [
        (6, ValueError, r"rows must lie in 0 \.\.\. 5, got 6"),
        ("cell9", ValueError, r"rows must hold known names, got 'cell9'; did you mean"),
        ([True, False], ValueError, r"rows as booleans must have shape \(6,\), got \(2,\)"),
        ((0, 0, 0), ValueError, "a Dataset has rows and columns, got 3 indices"),
        ((slice(None), 1.5), TypeError, "columns must hold integers or names"),
    ],
)  # fmt: skip
def test_what_can_not_be_selected_is_one_sentence(key, error, sentence):
    with pytest.raises(error, match=sentence):
        Dataset(COUNTS, ROWS, COLUMNS)[key]


def test_scikit_learn_splits_a_dataset_and_keeps_its_names():
    data = Dataset(sparse.csr_array(COUNTS), ROWS, COLUMNS)
    train, test = train_test_split(data, test_size=2, random_state=0)
    assert train.shape == (4, 4)
    assert sorted([*train.row_names, *test.row_names]) == sorted(ROWS)
    search = GridSearchCV(PoissonNMF(1, random_state=0, tol=1e-2), {"n_components": [1, 2]}, cv=2).fit(data)
    assert search.best_estimator_.feature_names_in_.tolist() == COLUMNS.tolist()


def test_a_dataset_is_copied_and_pickled():
    data = Dataset(sparse.csr_array(COUNTS), ROWS, COLUMNS)
    for other in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert other.X.toarray().tolist() == COUNTS.tolist()
        assert other.row_names.tolist() == ROWS.tolist()
