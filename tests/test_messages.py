"""Error messages are short and name the argument."""

import os
import re

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import fastpmf
import fastpmf.io
from fastpmf import HPF, PoissonNMF, as_counts, match_components, plot, select_n_components
from fastpmf.io import Dataset
from fastpmf.utils.messages import MAX_LENGTH, brief, listed
from fastpmf.utils.validation import check_option

X = np.random.default_rng(0).poisson(1.0, (20, 6)) + np.eye(20, 6, dtype=int)
LONG = [f"label {i}" for i in range(100_000)]
ARRAY = np.arange(100_000.0)
TEXT = "x" * 100_000


@pytest.mark.parametrize(
    "value", [LONG, tuple(LONG), ARRAY, TEXT, set(LONG), dict.fromkeys(LONG), np.ones((99, 99)), 10**900]
)
def test_a_value_is_shown_on_one_line(value):
    shown = brief(value)
    assert len(shown) <= MAX_LENGTH
    assert "\n" not in shown


def test_short_values_are_shown_as_they_are():
    for value in (None, "auto", 3, 0.5, (1.1, "x"), ["a", "b"], True):
        assert brief(value) == repr(value)
    assert brief(np.float64(0.5)) == "0.5"
    assert listed(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    assert listed(["a"]) == "'a'"


def test_an_option_that_is_an_array_is_refused_as_any_other():
    with pytest.raises(ValueError, match=r"^init must be one of 'auto', 'merge'.*, got array\(\["):
        PoissonNMF(2, init=np.ones((3, 2))).fit(X)
    with pytest.raises(ValueError, match=r"^solver must be one of"):
        PoissonNMF(2, solver=np.ones(3)).fit(X)
    with pytest.raises(ValueError, match=r"^a must be one of 'b' or None, got 3$"):
        check_option(3, ["b"], "a", none=True)
    check_option(None, ["b"], "a", none=True)


LONG_VALUES = {
    "groups": lambda: plot.structure(np.ones((3, 2)), groupby=["a", "b", "c"], groups=LONG),
    "components": lambda: plot.top_features(np.ones((2, 3)), components=LONG),
    "order": lambda: plot.structure(np.ones((3, 2)), order=TEXT),
    "init": lambda: PoissonNMF(2, init=LONG).fit(X),
    "solver": lambda: PoissonNMF(2, solver=ARRAY).fit(X),
    "acceleration": lambda: PoissonNMF(2, acceleration=LONG).fit(X),
    "dtype": lambda: PoissonNMF(2, dtype=LONG).fit(X),
    "prior_W": lambda: PoissonNMF(2, prior_W=LONG).fit(X),
    "alpha_W": lambda: PoissonNMF(2, alpha_W=ARRAY).fit(X),
    "callback": lambda: PoissonNMF(2, callback=ARRAY).fit(X),
    "checkpoint": lambda: PoissonNMF(2).fit(X, checkpoint=LONG),
    "resume": lambda: PoissonNMF(2).fit(X, resume=LONG),
    "n_components": lambda: PoissonNMF(LONG).fit(X),
    "a": lambda: HPF(2, a=LONG).fit(X),
    "learn_prior": lambda: HPF(2, learn_prior=LONG).fit(X),
    "forgetting_rate": lambda: PoissonNMF(2, forgetting_rate=LONG).partial_fit(X),
    "fraction": lambda: fastpmf.thin_counts(X, LONG),
    "beta_loss": lambda: fastpmf.non_negative_factorization(X, beta_loss=ARRAY),
    "against": lambda: fastpmf.differential_expression(X, np.ones((len(X), 2)), np.ones((2, X.shape[1])), against=TEXT),
    "standard_errors": lambda: fastpmf.differential_expression(
        X, np.ones((len(X), 2)), np.ones((2, X.shape[1])), standard_errors=ARRAY
    ),
    "estimator": lambda: fastpmf.select_n_components(X, 2, estimator=TEXT),
    "X": lambda: as_counts(np.array([[TEXT, "1"]], dtype=object)),
    "X's column": lambda: as_counts(pd.DataFrame({"a": pd.array([1, 2], "Int64"), "b": [TEXT, "1"]})),
}


@pytest.mark.parametrize("name", LONG_VALUES)
def test_messages_about_very_long_values_are_short(name):
    with pytest.raises((ValueError, TypeError)) as caught:
        LONG_VALUES[name]()
    assert str(caught.value).startswith(name)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "NaN"), (np.inf, "infinity")])
@pytest.mark.parametrize("name", ["X", "mask", "row_exposure", "background", "sample_weight", "other", "W"])
def test_an_argument_that_is_not_finite_is_named(name, value, shown):
    H = np.ones((2, 6))
    calls = {
        "X": lambda A: PoissonNMF(2).fit(A),
        "mask": lambda A: PoissonNMF(2).fit(X, mask=A),
        "row_exposure": lambda A: PoissonNMF(2).fit(X, row_exposure=A[:, 0]),
        "background": lambda A: PoissonNMF(2).fit(X, background=A[0]),
        "sample_weight": lambda A: PoissonNMF(2).fit(X, sample_weight=A[:, 0]),
        "other": lambda A: match_components(H, A),
        "W": lambda A: fastpmf.to_topics(A[:, :2], H),
    }
    A = np.ones((20, 6))
    A[0, 0] = value
    advice = "; give 0 .* means no count, and fit a mask where .*" if (name, shown) == ("X", "NaN") else ""
    with pytest.raises(ValueError, match=f"^{name} must be finite, got {shown}{advice}$"):
        calls[name](A)


@pytest.mark.parametrize("name", ["exposure", "pseudocount", "z", "min_weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused(name, value):
    model = PoissonNMF(2, random_state=0).fit(X)
    W = model.transform(X)
    calls = {
        "exposure": [
            lambda: fastpmf.component_gains(X, model.components_, X, exposure=value),
            lambda: HPF(2, max_iter=2, tol=1.0, random_state=0).fit(X).predictive_log_likelihood(X, exposure=value),
            lambda: plot.calibration(X, W, model.components_, exposure=value),
        ],
        "pseudocount": [lambda: model.differential_expression(X, W, pseudocount=value)],
        "z": [
            lambda: model.differential_expression(X, W).top(2, z=value),
            lambda: plot.differential(model.differential_expression(X, W), 0, z=value),
        ],
        "min_weight": [lambda: model.top_features(2, min_weight=value)],
    }
    for call in calls[name]:
        with pytest.raises(ValueError, match=f"^{name} must be finite, got {value}$"):
            call()


def test_a_share_above_one_is_refused():
    with pytest.raises(ValueError, match=r"^min_weight must be between 0 and 1, got 3$"):
        fastpmf.top_features(np.ones((2, 6)), min_weight=3)


def test_a_missing_folder_is_named_by_all_functions_that_write(tmp_path):
    model = PoissonNMF(2, random_state=0).fit(X)
    for name, write in {
        "model.npz": model.save,
        "factors.npz": lambda path: fastpmf.io.write_factors(path, model.transform(X), model),
        "W.npy": lambda path: fastpmf.io.write_factor(path, model.transform(X)),
        "table.csv": lambda path: fastpmf.io.write_table(path, ["a"], [[1]]),
        "counts": lambda path: fastpmf.io.write_counts(path, X),
    }.items():
        with pytest.raises(FileNotFoundError, match=rf"^no folder .*absent to write {name} in$"):
            write(tmp_path / "absent" / name)
    with pytest.raises(IsADirectoryError, match=r" is a folder, not a file to write$"):
        model.save(tmp_path)


def test_a_single_number_of_components_is_accepted():
    found = select_n_components(X, 2, estimator=PoissonNMF(1, max_iter=2), n_splits=1, random_state=0)
    assert found.n_components.tolist() == [2]
    with pytest.raises(TypeError, match=r"^n_components must be an instance of"):
        select_n_components(X, 2.5)


def test_inverse_transform_takes_a_sparse_W():
    model = PoissonNMF(2, random_state=0, tol=0.1).fit(X)
    W = np.array([[1.0, 0.0], [0.0, 2.0]])
    expected = model.inverse_transform(W)
    for kind in (sparse.csr_array, sparse.csc_matrix, sparse.coo_array):
        assert (model.inverse_transform(kind(W)) == expected).all()
    with pytest.raises(ValueError, match=r"^X must have shape \(2, 2\), got \(2, 1\)"):
        model.inverse_transform(sparse.csr_array(W[:, :1]))
    with pytest.raises(TypeError, match=r"^X must hold real numbers"):
        model.inverse_transform([["a", "b"]])


def test_the_message_for_a_path_says_how_to_read_it(tmp_path):
    for path in ("counts.h5ad", tmp_path):
        with pytest.raises(TypeError, match=r"^X must be a matrix, got a path: .* fastpmf.io.read_counts\(path\)"):
            PoissonNMF(2).fit(path)
    assert isinstance(tmp_path, os.PathLike)


def test_the_message_for_dask_objects_says_how_to_fit_them():
    array = pytest.importorskip("dask.array")
    delayed = pytest.importorskip("dask").delayed(X)
    frame = pytest.importorskip("dask.dataframe").from_pandas(pd.DataFrame(X), npartitions=2)
    dense = array.from_array(X, chunks=(10, 6))
    for given in (dense, dense.map_blocks(sparse.csr_array), delayed, frame):
        with pytest.raises(TypeError, match=r"^X must be in memory, got a Dask .*fastpmf.dask.*X.compute\(\)$"):
            PoissonNMF(2).fit(given)
        with pytest.raises(TypeError, match=r"^mask must be in memory, got a Dask .*mask.compute\(\)$"):
            PoissonNMF(2).fit(X, mask=given)


def test_the_message_for_backed_anndata_says_how_to_read_it(tmp_path):
    anndata = pytest.importorskip("anndata")
    for name, counts in (("sparse", sparse.csr_matrix(X)), ("dense", X.astype(float))):
        anndata.AnnData(counts).write_h5ad(tmp_path / f"{name}.h5ad")
    backed = anndata.read_h5ad(tmp_path / "sparse.h5ad", backed="r")
    with pytest.raises(TypeError, match=r"^X must be in memory, got .*X.to_memory\(\).*stream_counts\(path\)$"):
        PoissonNMF(2).fit(backed.X)
    assert as_counts(backed.X.to_memory()).total == X.sum()
    backed.file.close()
    backed = anndata.read_h5ad(tmp_path / "dense.h5ad", backed="r")
    assert as_counts(backed.X).total == X.sum()  # a dataset of HDF5 is an array
    with pytest.raises(TypeError, match=r"^X must be a matrix, got File$"):
        as_counts(backed.file._file)
    backed.file.close()


def test_the_message_for_a_dask_mask_does_not_suggest_to_fit_it():
    array = pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match=r"^mask must be in memory, got a Dask Array: give mask.compute\(\)$"):
        PoissonNMF(2).fit(X, mask=array.zeros(X.shape, dtype=bool))


@pytest.mark.parametrize("Model", [PoissonNMF, HPF])
def test_counts_of_other_features_are_refused_with_the_first_that_differ(Model):
    model = Model(1, random_state=0).fit(Dataset(X, None, list("abcdef")))
    new = Dataset([[1, 2]], None, ["f", "z"])
    sentence = (
        "X must have the 6 fitted features, got 2, without 'a' and 4 more, with 'z' that the fit did not have: "
        "Dataset.aligned gives the counts of the fitted features"
    )
    for call in (model.recommend, model.transform, model.score, model.quality):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            call(new)
    with pytest.raises(ValueError, match=r"^X must have the 6 fitted features, got 7: Dataset\.aligned"):
        model.transform(Dataset(np.ones((1, 7)), None, list("abcdeff")))
    assert model.recommend(new.aligned(model.feature_names_in_).data, n=1).names.shape == (1, 1)


@pytest.mark.parametrize("method", ["fit", "transform", "score", "recommend", "quality", "partial_fit", "report"])
def test_an_alignment_in_place_of_its_counts_is_refused_with_the_way_to_them(tmp_path, method):
    model = PoissonNMF(1, random_state=0).fit(Dataset(X, None, list("abcdef")))
    found = Dataset([[1, 2]], None, ["f", "z"]).aligned(model.feature_names_in_)
    given = [found] if method != "report" else [tmp_path / "report.html", found]
    with pytest.raises(TypeError, match=r"^X must be counts, got what Dataset\.aligned returns: give its \.data, and"):
        getattr(model, method)(*given)


TEXTS = ["the cat", "a dog sat"]
WORDS = [text.split() for text in TEXTS]


@pytest.mark.parametrize("texts", [TEXTS, tuple(TEXTS), ["", *TEXTS], pd.Series([None, *TEXTS]), np.array(TEXTS)])
def test_texts_are_refused_with_what_counts_their_words(texts):
    with pytest.raises(TypeError, match=r"^X must be counts, got texts: .* by scikit-learn's CountVectorizer$"):
        PoissonNMF(2).fit(texts)


@pytest.mark.parametrize("words", [WORDS, [[], *WORDS], pd.Series(WORDS), [["the", "cat"], ["a", "dog"]]])
def test_lists_of_words_are_refused_with_what_counts_them(words):
    with pytest.raises(TypeError, match=r"^X must be counts, got lists of words: .*CountVectorizer\(analyzer=list\)$"):
        HPF(2).fit(words)


@pytest.mark.parametrize("bags", [[[(0, 1), (1, 2)], [(0, 2)]], [[(0, 1), (1, 2)]] * 2, [[], [(0, 1.5)]]])
def test_bags_of_words_of_gensim_are_refused_with_what_makes_them_a_matrix(bags):
    with pytest.raises(TypeError, match=r"^X must be a matrix, got lists of \(id, count\) pairs: give gensim\."):
        PoissonNMF(2).fit(bags)


@pytest.mark.parametrize("estimator", [PoissonNMF, HPF])
@pytest.mark.parametrize(("k", "error"), [("auto", TypeError), (None, TypeError), (True, TypeError), (0, ValueError)])
def test_without_a_number_of_components_the_function_that_chooses_one_is_named(estimator, k, error):
    for method in ("fit", "partial_fit"):
        with pytest.raises(error, match=f"^n_components must be an integer >= 1, got {k!r}; select_n_components finds"):
            getattr(estimator(k), method)(X)


@pytest.mark.parametrize("estimator", [PoissonNMF, HPF])
def test_a_wrong_number_of_columns_is_an_error_without_a_warning_before(estimator):
    model = estimator(2, random_state=0, max_iter=3, tol=1.0).fit(pd.DataFrame(X, columns=list("abcdef")))
    for method in ("transform", "score"):
        with pytest.raises(ValueError, match=r"^X has 4 features, but \w+ is expecting 6 features as input$"):
            getattr(model, method)(X[:, :4])


@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_a_table_with_a_line_for_each_entry_is_refused_with_the_function_that_reads_it(dtype):
    table = pd.DataFrame({"user": pd.array(["ada", "bob"], dtype), "item": ["tea", "jam"], "n": [2, 1]})
    advice = r"'ada'; for a table of row ids, .* use Dataset\.from_entries, for texts scikit-learn's CountVectorizer$"
    with pytest.raises(ValueError, match=advice):
        PoissonNMF(2).fit(table)
    io = fastpmf.io
    for read in (io.read_counts, io.stream_counts, lambda A: io.convert_counts(A, "counts")):
        with pytest.raises(TypeError, match=r"^path must be .*, got a DataFrame; .* use Dataset\.from_entries$"):
            read(table)


@pytest.mark.parametrize("name", ["model.pkl", "model", "model.h5", "model.npz.gz"])
def test_models_are_saved_under_names_that_end_in_npz_only(tmp_path, name):
    with pytest.raises(ValueError, match=f"^path must be a .npz file, got '{name}'$"):
        PoissonNMF(2, random_state=0).fit(X).save(tmp_path / name)
    assert not list(tmp_path.iterdir())
