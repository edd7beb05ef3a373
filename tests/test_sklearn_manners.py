"""The estimators with other parts of scikit-learn: metadata routing, output as tables, callbacks, searches."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from fastpmf import HPF, FitInterrupted, PoissonNMF, Status

try:
    from sklearn.callback import ScoringMonitor
except ImportError:
    ScoringMonitor = None

needs_callbacks = pytest.mark.skipif(ScoringMonitor is None, reason="scikit-learn has callbacks from version 1.9 on")
each_estimator = pytest.mark.parametrize("kind", [PoissonNMF, HPF])


def quick(kind, k=2, **options):
    """A model that does exactly five iterations."""
    return kind(k, **{"max_iter": 5, "tol": 0, "random_state": 0, "n_threads": 1} | options)


def through():
    return FunctionTransformer(accept_sparse=True)


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(1)
    return sparse.csr_array(rng.poisson(rng.gamma(0.5, 2, (40, 3)) @ rng.gamma(0.3, 1, (3, 25))) + np.eye(40, 25))


@pytest.fixture(scope="module")
def rows():
    """Data of rows: a column of a table, a list, and a sparse matrix."""
    rng = np.random.default_rng(2)
    weight, exposure = rng.integers(0, 3, 40), rng.uniform(0.5, 2, 40)
    mask = sparse.csr_array(rng.random((40, 25)) < 0.1)
    return {"sample_weight": pd.Series(weight), "row_exposure": list(exposure), "mask": mask}


def of_rows(known, some):
    """The data of some rows."""
    return {name: value[some] if name == "mask" else np.asarray(value)[some] for name, value in known.items()}


def without_weights(known):
    return {name: value for name, value in known.items() if name != "sample_weight"}


def asking(model, known):
    """The model, with metadata requested for the arguments that it has."""
    model = model.set_fit_request(**dict.fromkeys(known, True))
    new = dict.fromkeys(without_weights(known), True)
    return model.set_transform_request(**new).set_score_request(**dict.fromkeys(known, True))


def known_to(kind, rows):
    return rows if kind is PoissonNMF else {"mask": rows["mask"]}


@each_estimator
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_pipeline_routes_data_of_rows(kind, place, X, rows):
    known = known_to(kind, rows)
    alone = quick(kind)
    W = alone.fit_transform(X, **known)
    with config_context(enable_metadata_routing=True):
        model = asking(quick(kind), known)
        steps = [model, through()] if place == "first" else [through(), model]
        assert np.array_equal(make_pipeline(*steps).fit_transform(X, **known), W)
        pipeline = make_pipeline(*map(clone, steps)).fit(X, **known)
        new = without_weights(known)
        assert np.array_equal(pipeline.transform(X, **new), alone.transform(X, **new))
    assert not np.array_equal(W, quick(kind).fit_transform(X))  # so the data had an effect


@each_estimator
def test_cross_validation_routes_data_of_rows_to_fit_and_score(kind, X, rows):
    known, folds = known_to(kind, rows), KFold(3)
    expected = []
    for train, test in folds.split(X):
        model = quick(kind).fit(X[train], **of_rows(known, train))
        expected.append(model.score(X[test], **of_rows(known, test)))
    with config_context(enable_metadata_routing=True):
        model = asking(quick(kind), known)
        assert list(cross_validate(model, X, cv=folds, params=known)["test_score"]) == expected
        search = GridSearchCV(model, {"n_components": [1, 2]}, cv=folds).fit(X, **known)
        found = [search.cv_results_[f"split{i}_test_score"][1] for i in range(3)]
        assert found == expected
        best = quick(kind, search.best_params_["n_components"]).fit(X, **known)
        assert np.array_equal(search.best_estimator_.components_, best.components_)


def test_without_routing_a_search_over_a_pipeline_splits_data_of_rows_too(X, rows):
    known, folds = {"sample_weight": rows["sample_weight"], "mask": rows["mask"]}, KFold(2)
    pipeline = make_pipeline(through(), quick(PoissonNMF))
    search = GridSearchCV(pipeline, {"poissonnmf__n_components": [2]}, cv=folds)
    search.fit(X, **{f"poissonnmf__{name}": value for name, value in known.items()})
    for i, (train, test) in enumerate(folds.split(X)):
        model = quick(PoissonNMF).fit(X[train], **of_rows(known, train))
        assert search.cv_results_[f"split{i}_test_score"][0] == model.score(X[test])


def test_an_argument_that_fit_does_not_have_cant_be_requested():
    with config_context(enable_metadata_routing=True), pytest.raises(TypeError, match="exposures"):
        PoissonNMF(2).set_fit_request(exposures=True)


@each_estimator
def test_a_clone_has_the_same_metadata_requests(kind, rows):
    with config_context(enable_metadata_routing=True):
        model = asking(quick(kind), known_to(kind, rows))
        assert str(clone(model).get_metadata_routing()) == str(model.get_metadata_routing())


@each_estimator
def test_a_pipeline_gives_tables_with_names_of_rows_and_components(kind, X):
    frame = pd.DataFrame(X.toarray(), index=[f"cell{i}" for i in range(40)], columns=[f"gene{j}" for j in range(25)])
    pipeline = make_pipeline(FunctionTransformer(feature_names_out="one-to-one"), quick(kind))
    W = pipeline.set_output(transform="pandas").fit_transform(frame)
    names = [f"{kind.__name__.lower()}{k}" for k in range(2)]
    assert list(W.columns) == list(pipeline.get_feature_names_out()) == names
    assert list(W.index) == list(frame.index)
    np.testing.assert_array_equal(W, quick(kind).fit_transform(frame))
    assert list(pipeline.transform(frame[:3]).index) == ["cell0", "cell1", "cell2"]


def test_a_search_chooses_by_the_score_of_hpf(X):
    search = GridSearchCV(quick(HPF), {"n_components": [1, 3], "hierarchy": [True, False]}, cv=KFold(2)).fit(X)
    assert search.score(X) == search.best_estimator_.score(X)
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])


def test_verbose_does_not_change_the_status(X, capsys):
    options = {"max_iter": 400, "tol": 0, "eval_every": 2, "random_state": 0}
    for verbose in (False, True):
        model = PoissonNMF(8, verbose=verbose, **options).fit(X, validation=0.2)
        assert model.status_ is Status.VALIDATION
    assert "objective" in capsys.readouterr().err


class Watcher:
    """A callback that records its arguments; at one hook it can raise an error once, or stop the fit."""

    def __init__(self, at=None, raises=None, stop_at=None):
        self.calls, self.at, self.raises, self.stop_at = [], at, raises, stop_at

    def _record(self, hook, context, **arguments):
        self.calls.append((hook, context.task_name, context.task_id, arguments))
        if hook == self.at:
            self.at = None
            raise self.raises

    def of(self, hook, task="iterations"):
        return [arguments for name, of_task, _, arguments in self.calls if (name, of_task) == (hook, task)]

    def setup(self, estimator, context):
        self._record("setup", context)

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self._record("begin", context, X=X, y=y, metadata=metadata, fitted=fitted_estimator)

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self._record("end", context, X=X, y=y, metadata=metadata, fitted=fitted_estimator)
        return len(self.of("end")) == self.stop_at

    def teardown(self, estimator, context):
        self._record("teardown", context)


def twenty_three(kind, **options):
    """Three tasks: of ten iterations, of ten and of three."""
    return quick(kind, **{"max_iter": 23} | options)


def bits(model):
    return model.components_.tobytes(), model.objective_, model.n_iter_, model.status_


def test_estimators_have_callbacks_if_scikit_learn_has_them():
    for kind in (PoissonNMF, HPF):
        assert hasattr(kind(2), "set_callbacks") == (ScoringMonitor is not None)


@needs_callbacks
@each_estimator
@pytest.mark.parametrize("n_init", [1, 3])
def test_callbacks_do_not_change_the_result(kind, n_init, X):
    alone, watched = (twenty_three(kind, n_init=n_init) for _ in range(2))
    assert np.array_equal(watched.set_callbacks(Watcher()).fit_transform(X), alone.fit_transform(X))
    assert bits(watched) == bits(alone)


@needs_callbacks
@each_estimator
def test_every_evaluation_ends_a_task_and_all_tasks_are_ended(kind, X):
    watcher = Watcher()
    twenty_three(kind).set_callbacks(watcher).fit(X)
    steps = [(hook, "iterations", i) for i in range(3) for hook in ("begin", "end")]
    expected = [("setup", "fit", 0), ("begin", "fit", 0), *steps, ("end", "fit", 0), ("teardown", "fit", 0)]
    assert [call[:3] for call in watcher.calls] == expected


@needs_callbacks
def test_tasks_are_ended_if_a_fit_converges_or_drops_starts(X):
    for options in ({"tol": 0.05}, {"n_init": 3}, {"max_iter": 20}, {"eval_every": 100}):
        watcher = Watcher()
        model = twenty_three(PoissonNMF, **options).set_callbacks(watcher).fit(X)
        assert len(watcher.of("begin")) == len(watcher.of("end")) > 0
        assert watcher.of("end", "fit")[0]["fitted"].n_iter_ == model.n_iter_


@needs_callbacks
@pytest.mark.parametrize("options", [{}, {"learn_prior": True}, {"hierarchy": False}])
def test_the_posteriors_a_callback_gets_are_those_of_a_fit_that_stops_there(options, X):
    watcher = Watcher()
    twenty_three(HPF, **options).set_callbacks(watcher).fit(X)
    for seen, n_iter in zip(watcher.of("end"), (10, 20, 23), strict=True):
        there, seen = quick(HPF, max_iter=n_iter, **options).fit(X), seen["fitted"]
        assert np.array_equal(seen.W_posterior_.mean, there.W_posterior_.mean)
        assert np.array_equal(seen.H_posterior_.rate, there.H_posterior_.rate)
        np.testing.assert_equal(seen.prior_, there.prior_)
        assert seen.score(X) == there.set_params(max_iter=23).score(X)


@needs_callbacks
@pytest.mark.parametrize("known", [{}, {"column_exposure": np.arange(25) + 1.0, "background": 0.01}])
def test_the_estimator_a_callback_gets_is_the_one_that_stops_there(known, X):
    watcher = Watcher()
    twenty_three(PoissonNMF, prior_W="auto").set_callbacks(watcher).fit(X, **known)
    for seen, n_iter in zip(watcher.of("end"), (10, 20, 23), strict=True):
        there = quick(PoissonNMF, max_iter=n_iter, prior_W="auto").fit(X, **known)
        seen = seen["fitted"]
        assert seen.n_iter_ == n_iter
        # The final sums are recomputed
        assert seen.score(X) == pytest.approx(there.set_params(max_iter=23).score(X), rel=1e-12)
        assert vars(there).keys() <= vars(seen).keys()


@needs_callbacks
@each_estimator
def test_the_last_estimator_a_callback_gets_is_the_fitted_one(kind, X):
    watcher = Watcher()
    model = twenty_three(kind).set_callbacks(watcher).fit(X)
    for call in (*watcher.of("end")[-1:], *watcher.of("end", "fit")):
        assert bits(call["fitted"]) == bits(model)
        assert np.array_equal(call["fitted"].transform(X), model.transform(X))


@needs_callbacks
def test_callbacks_get_the_arguments_of_fit(X, rows):
    watcher, y = Watcher(), np.arange(40)
    twenty_three(PoissonNMF).set_callbacks(watcher).fit(X, y, **rows, background=0.1)
    for call in (*watcher.of("begin"), *watcher.of("end"), *watcher.of("end", "fit")):
        assert call["X"] is X
        assert call["y"] is y
        assert call["metadata"].keys() == rows.keys()
        assert all(call["metadata"][name] is value for name, value in rows.items())


@needs_callbacks
@each_estimator
def test_scikit_learns_monitor_scores_every_evaluation(kind, X):
    monitor = ScoringMonitor(scoring=lambda model, X, y: {"score": model.score(X)})
    model = twenty_three(kind).set_callbacks(monitor).fit(X, np.zeros(40))  # scores need a y
    scores = {row["task_id_path"]: row["score"] for row in monitor.get_logs().data}
    stops = {(0,): 23, (0, 0): 10, (0, 1): 20, (0, 2): 23}
    fits = {path: quick(kind, max_iter=n).fit(X) for path, n in stops.items()}
    assert scores == {path: fit.set_params(max_iter=23).score(X) for path, fit in fits.items()}
    assert scores[(0,)] == model.score(X)


@needs_callbacks
@each_estimator
def test_monitors_searches_and_pipelines_work_together(kind, X):
    monitor = ScoringMonitor(scoring=lambda model, X, y: {"score": model.score(X)})
    model = twenty_three(kind).set_callbacks(monitor)
    name = kind.__name__.lower()
    grid = {f"{name}__n_components": [1, 2]}
    search = GridSearchCV(make_pipeline(through(), model), grid, cv=KFold(2)).fit(X, np.zeros(40))
    alone = GridSearchCV(make_pipeline(through(), clone(model).set_callbacks()), grid, cv=KFold(2)).fit(X)
    assert np.array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    logs = monitor.get_logs(select="all")
    assert sum(row["task_name"] == "iterations" for log in logs for row in log.data) == 15  # five fits, three each


@needs_callbacks
@each_estimator
@pytest.mark.parametrize("inside", ["alone", "pipeline", "search"])
def test_a_progress_bar_is_complete_at_the_end(kind, inside, X, capsys):
    pytest.importorskip("rich", reason="scikit-learn's progress bar needs rich")
    from sklearn.callback import ProgressBar

    model = twenty_three(kind)
    name = kind.__name__
    if inside != "alone":
        model = make_pipeline("passthrough", model)
    if inside == "search":
        model = GridSearchCV(model, {f"{name.lower()}__n_components": [1, 2]}, cv=KFold(2))
    model.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X)
    lines = [line for line in capsys.readouterr().out.splitlines() if f"{name} - fit" in line]
    assert len(lines) == {"alone": 1, "pipeline": 1, "search": 5}[inside]
    assert all("100%" in line for line in lines)


@needs_callbacks
@each_estimator
@pytest.mark.parametrize("at", ["setup", "begin", "end", "teardown"])
def test_a_callback_that_fails_leaves_the_estimator_unchanged(kind, at, X):
    model = twenty_three(kind).set_callbacks(Watcher(at=at, raises=RuntimeError("on purpose")))
    with pytest.raises(RuntimeError, match="on purpose"):
        model.fit(X)
    with pytest.raises(NotFittedError):
        model.transform(X)
    assert vars(model).keys() == vars(twenty_three(kind)).keys() | {"_skl_callbacks"}
    fitted = clone(model).set_callbacks().fit(X)
    before = vars(fitted).copy()
    fitted.set_callbacks(Watcher(at=at, raises=RuntimeError("on purpose")))
    with pytest.raises(RuntimeError, match="on purpose"):
        fitted.fit(X[:20])
    assert {name: value for name, value in vars(fitted).items() if name != "_skl_callbacks"} == before


@needs_callbacks
def test_callbacks_are_torn_down_after_a_failure(X):
    watcher = Watcher(at="end", raises=RuntimeError("on purpose"))
    with pytest.raises(RuntimeError, match="on purpose"):
        twenty_three(PoissonNMF).set_callbacks(watcher).fit(X)
    assert watcher.calls[-1][0] == "teardown"


@needs_callbacks
@each_estimator
def test_a_callback_can_stop_a_fit(kind, X):
    watcher = Watcher(stop_at=1)
    model = twenty_three(kind).set_callbacks(watcher).fit(X)
    assert (model.n_iter_, model.status_) == (10, Status.CALLBACK)
    assert len(watcher.of("begin")) == len(watcher.of("end")) == 1
    assert np.array_equal(model.components_, quick(kind, max_iter=10).fit(X).components_)


@needs_callbacks
@each_estimator
def test_ctrl_c_in_a_callback_of_scikit_learn_keeps_the_fit_so_far(kind, X):
    watcher = Watcher(at="end", raises=KeyboardInterrupt)
    model = twenty_three(kind).set_callbacks(watcher)
    with pytest.raises(FitInterrupted, match="kept"):
        model.fit(X)
    assert np.array_equal(model.components_, quick(kind, max_iter=10).fit(X).components_)
    assert [call[0] for call in watcher.calls[-3:]] == ["end", "end", "teardown"]  # of the iterations, and of the fit


@needs_callbacks
def test_the_callback_parameter_is_called_first_and_can_stop_the_fit_too(X):
    watcher, seen = Watcher(), []

    def own(record, W, H):
        seen.append((record.n_iter, len(watcher.of("end"))))
        return record.n_iter == 20

    model = twenty_three(PoissonNMF, callback=own).set_callbacks(watcher).fit(X)
    assert seen == [(0, 0), (10, 0), (20, 1)]
    assert (model.n_iter_, len(watcher.of("end")), len(watcher.of("begin"))) == (20, 2, 2)
    with pytest.raises(TypeError, match="callback must be callable or None, got 3"):
        model.set_params(callback=3).fit(X)


@needs_callbacks
def test_the_estimator_that_a_callback_gets_has_no_attributes_of_an_earlier_fit(X):
    frame = pd.DataFrame(X.toarray(), columns=[f"gene{j}" for j in range(25)])
    watcher = Watcher()
    twenty_three(PoissonNMF).fit(frame).set_callbacks(watcher).fit(X[:, :10])
    for call in watcher.of("end"):
        assert call["fitted"].transform(X[:, :10]).shape == (40, 2)  # would warn of feature names
        assert call["fitted"].n_features_in_ == 10


@each_estimator
@pytest.mark.parametrize("masked", [False, True])
def test_a_weighted_score_is_that_of_repeated_rows(kind, masked, X, rows):
    weight, model = rows["sample_weight"].to_numpy(), quick(kind, max_iter=200).fit(X)
    often = np.repeat(np.arange(40), weight)
    mask = rows["mask"] if masked else None
    repeated = model.score(X[often], mask=None if mask is None else mask[often])
    # sums of the same terms in another order
    assert model.score(X, mask=mask, sample_weight=weight) == pytest.approx(repeated, rel=1e-9)
    with pytest.raises(ValueError, match="sample_weight must have shape"):
        model.score(X, sample_weight=weight[:3])


@pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 7), reason="a search asks a Pipeline for its own request"
)
@each_estimator
def test_a_search_over_a_pipeline_routes_weights_to_the_score(kind, X, rows):
    weight, folds = rows["sample_weight"], KFold(2)
    with config_context(enable_metadata_routing=True):
        model = quick(kind, max_iter=200).set_score_request(sample_weight=True)
        if kind is PoissonNMF:
            model.set_fit_request(sample_weight=False)
        pipeline = make_pipeline(through(), model)
        search = GridSearchCV(pipeline, {f"{kind.__name__.lower()}__n_components": [2]}, cv=folds)
        found = search.fit(X, sample_weight=weight).cv_results_
    for i, (train, test) in enumerate(folds.split(X)):
        model = quick(kind, max_iter=200).fit(X[train])
        assert found[f"split{i}_test_score"][0] == model.score(X[test], sample_weight=weight[test])
