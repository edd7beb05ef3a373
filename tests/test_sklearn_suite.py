"""scikit-learn's own tests of `NMF`, run with fastpmf in its place wherever they concern the Kullback-Leibler loss."""

import itertools
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn

import fastpmf
from fastpmf.estimators.sklearn_function import _components

try:
    from sklearn.decomposition.tests import test_nmf as theirs
except (ImportError, RuntimeError) as error:  # some versions of it and of SciPy import no tests of it together
    pytest.skip(f"scikit-learn's own tests, which are run here, can't be imported: {error}", allow_module_level=True)
KNOWN = (1, 9)  # the version of scikit-learn whose tests the two tables below are of
LOSSES = (1, "kullback-leibler")

RUN = (
    "test_nmf_fit_nn_output",
    "test_nmf_fit_close",
    "test_nmf_true_reconstruction",
    "test_nmf_transform",
    "test_nmf_transform_custom_init",
    "test_nmf_inverse_transform",
    "test_n_components_greater_n_features",
    "test_nmf_sparse_input",
    "test_nmf_sparse_transform",
    "test_beta_divergence",
    "test_nmf_negative_beta_loss",
    "test_nmf_regularization",
    "test_nmf_decreasing",
    "test_nmf_underflow",
    "test_nmf_dtype_match",
    "test_feature_names_out",
    "test_nmf_n_components_auto",
    "test_nmf_non_negative_factorization_n_components_auto",
    "test_nmf_n_components_auto_no_h_update",
    "test_nmf_w_h_not_used_warning",
    "test_nmf_custom_init_shape_error",
    "test_nmf_smoke",
)
# In these "mu" says no more than that the loss is Kullback-Leibler's, which here "cd" has too
BY_CD_TOO = ("test_nmf_true_reconstruction", "test_nmf_negative_beta_loss", "test_nmf_decreasing")

_NO_ZEROS = (
    "It asks for exact zeros of multiplicative updates, which scikit-learn makes of all below 2.2e-16; here these have "
    "a floor at 1e-12 of a row's counts, so that nothing is locked at zero, and cd makes the zeros."
)
NOT_OURS = {  # tests, or those of them with a solver, that do not apply
    "test_convergence_warning": "A matrix of ones is fitted by one iteration, and kkt_residual is at most tol then.",
    "test_initialize_nn_output": "It tests a private function of scikit-learn; starts are in test_init.py.",
    "test_parameter_checking": (
        "It is one test of MiniBatchNMF, of private functions, and that cd is without this loss, which here it has; "
        "negative counts and NNDSVD of too many components are in test_counts.py and test_estimator.py."
    ),
    "test_initialize_close": "It tests a private function of scikit-learn, by the Frobenius norm.",
    "test_initialize_variants": "It tests a private function of scikit-learn; zeros of NNDSVD are lifted here.",
    ("test_nmf_true_reconstruction", "mu"): _NO_ZEROS,
    "test_minibatch_nmf_transform": "It tests MiniBatchNMF.",
    "test_mbnmf_inverse_transform": "It tests MiniBatchNMF.",
    "test_non_negative_factorization_consistency": (
        "transform ends each row by its own certificate, and the function all rows by one, so that within tol of the "
        "one optimum they differ; what holds of it is tested below."
    ),
    "test_non_negative_factorization_checking": (
        "A start full of zeros is mended here with a warning, not refused; negative ones are, in test_estimator.py."
    ),
    "test_special_sparse_dot": "It tests a private function of scikit-learn.",
    "test_nmf_multiplicative_update_sparse": (
        "It compares factors under penalties with scikit-learn's own at beta_loss=0.99999, but here the two are also "
        "brought to the scale at which penalties are least; sparse and dense input are in test_dropin.py."
    ),
    "test_minibatch_nmf_negative_beta_loss": "It tests MiniBatchNMF, of losses other than this one.",
    ("test_nmf_regularization", "mu"): _NO_ZEROS,
    ("test_nmf_decreasing", "cd"): "It leaves out any loss but Frobenius' for this solver.",
    "test_nmf_float32_float64_consistency": (
        "With as many components as features it follows rounding where W ends among all exact answers; scikit-learn's "
        "iterates of this loss differ by more than it allows after 20 iterations, too."
    ),
    "test_nmf_custom_init_dtype_error": "A start of another dtype than X is converted, not refused.",
    "test_nmf_minibatchnmf_equivalence": "It tests MiniBatchNMF, whose starts of equal seeds are not fastpmf's.",
    "test_minibatch_nmf_partial_fit": "It tests MiniBatchNMF.",
    "test_minibatch_nmf_verbose": "It tests MiniBatchNMF.",
}
SENTENCES = {  # theirs, and what is to be said instead
    "Array with wrong first dimension passed": r"W must have shape \(6, 2\), got \(5, 2\)",
    "Array with wrong second dimension passed": r"W must have shape \(6, 2\), got \(6, 3\)",
    "When init!='custom', provided W or H are ignored": "W and H are used with init='custom' only",
    "When update_H=False, the provided initial W is not used.": "W is not used with update_H=False",
}


class NMF(fastpmf.PoissonNMF):
    """`PoissonNMF` with the constructor of scikit-learn's `NMF`, and the loss that is ours for a default."""

    uses: list  # what was called
    solver_of: dict  # the solver to take, where it is not the one asked for

    def __init__(
        self, n_components="auto", *, init=None, solver="cd", beta_loss="kullback-leibler", tol=1e-4, max_iter=200,
        random_state=None, alpha_W=0.0, alpha_H="same", l1_ratio=0.0, verbose=0, shuffle=False,
    ):  # fmt: skip
        super().__init__(
            n_components, init=init, solver=solver, tol=tol, max_iter=max_iter, random_state=random_state,
            alpha_W=alpha_W, alpha_H=alpha_H, l1_ratio=l1_ratio, verbose=verbose,
            n_threads=1,  # matrices this small are soonest by one
        )  # fmt: skip
        self.beta_loss, self.shuffle = beta_loss, shuffle

    @contextmanager
    def _meant(self, shape, W=None, H=None):
        """Parameters that `PoissonNMF` knows, in place of scikit-learn's."""
        assert self.beta_loss in LOSSES
        self.uses.append("estimator")
        given = self.n_components, self.init, self.solver
        k = self.n_components = _components(shape, W, H, self.n_components, self.init == "custom", update_H=True)
        self.init = self.init or ("nndsvda" if k <= min(shape) else "random")
        self.solver = self.solver_of.get(self.solver, self.solver)
        try:
            yield
        finally:
            self.n_components, self.init, self.solver = given

    def fit(self, X, y=None, **start):
        self.fit_transform(X, **start)
        return self

    def fit_transform(self, X, y=None, W=None, H=None):
        with self._meant(X.shape, W, H):
            return super().fit_transform(X, W=W, H=H)

    def transform(self, X):
        with self._meant((1, self.components_.shape[1])):
            return super().transform(X)

    @property
    def _n_components(self):
        return self.n_components_


def stand_in(monkeypatch, solver_of):
    """fastpmf under scikit-learn's names, in the module of its tests; the list of what of it will have been called."""
    uses = []
    function, private = theirs.non_negative_factorization, theirs.nmf

    def of_other_losses(call, *args, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are scikit-learn's, and not what is tested
            return call(*args, **options)

    def factorise(X, *args, beta_loss="kullback-leibler", solver="mu", **options):
        if beta_loss not in LOSSES:
            return of_other_losses(function, X, *args, beta_loss=beta_loss, solver=solver, **options)
        uses.append("function")
        solver = solver_of.get(solver, solver)
        return fastpmf.non_negative_factorization(X, *args, beta_loss=beta_loss, solver=solver, **options)

    def divergence(X, W, H, beta):
        if beta != 1:
            return of_other_losses(private._beta_divergence, X, W, H, beta)
        uses.append("divergence")
        return fastpmf.kl_divergence(X, W, H)

    def in_our_words(expect):
        return lambda kind, match: expect(kind, match=SENTENCES.get(match, match))

    monkeypatch.setattr(NMF, "uses", uses, raising=False)
    monkeypatch.setattr(NMF, "solver_of", solver_of, raising=False)
    monkeypatch.setattr(theirs, "NMF", NMF)
    monkeypatch.setattr(theirs, "non_negative_factorization", factorise)
    for name, stand in {
        "nmf": {"_initialize_nmf": private._initialize_nmf, "_beta_divergence": divergence},
        "pytest": {"raises": in_our_words(pytest.raises), "warns": in_our_words(pytest.warns)},
    }.items():
        monkeypatch.setattr(theirs, name, SimpleNamespace(**stand))
    return uses


def parametrisations(function):
    """Each as a dict of the arguments of one of scikit-learn's tests, with our estimator for theirs."""
    marks = [mark.args for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
    axes = []
    for names, values in marks:
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
        axes.append([dict(zip(names, value if len(names) > 1 else (value,), strict=True)) for value in values])
    for parts in itertools.product(*axes):
        arguments = {name: value for part in parts for name, value in part.items()}
        yield {name: NMF if value is theirs.NMF else value for name, value in arguments.items()}


def cases():
    found = []
    for name in (name for name in RUN if hasattr(theirs, name)):
        for arguments in parametrisations(getattr(theirs, name)):
            if theirs.MiniBatchNMF in arguments.values():
                continue  # another algorithm, of another loss
            if arguments.get("dtype_in") in (np.int32, np.int64):
                continue  # integers are fitted in float32 here
            asked = arguments.get("solver", "mu")
            asked = asked["solver"] if isinstance(asked, dict) else asked
            ways = {asked: asked} | ({"cd for mu": "cd"} if name in BY_CD_TOO and asked == "mu" else {})
            for way, solver in ways.items():
                if (name, way) not in NOT_OURS:
                    told = [getattr(value, "__name__", str(value)) for value in arguments.values()]
                    found.append(pytest.param(name, arguments, {asked: solver}, id="-".join([name, *told, way])))
    return found


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # max_iter is theirs
@pytest.mark.filterwarnings("ignore:Only one of W and H is penalised")
@pytest.mark.filterwarnings("ignore:.*components carry no counts")
@pytest.mark.parametrize(("name", "arguments", "solver_of"), cases())
def test_scikit_learns_test_passes(name, arguments, solver_of, monkeypatch):
    uses = stand_in(monkeypatch, solver_of)
    getattr(theirs, name)(**arguments)
    assert uses


def test_each_test_of_scikit_learns_is_run_or_said_not_to_apply():
    there = {name for name in vars(theirs) if name.startswith("test_")}
    said = {key for key in NOT_OURS if isinstance(key, str)}
    assert not said & set(RUN)
    unknown, version = sorted(there - set(RUN) - said), tuple(map(int, sklearn.__version__.split(".")[:2]))
    if unknown and version != KNOWN:
        pytest.skip(f"scikit-learn {sklearn.__version__} has tests of NMF that nobody here has read: {unknown}")
    assert not unknown
    if version == KNOWN:
        assert said | set(RUN) <= there


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("init", ["random", "nndsvd"])
@pytest.mark.parametrize("solver", ["cd", "mu"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_function_and_the_class_are_one(init, solver, alpha):
    A = np.abs(np.random.RandomState(42).randn(10, 10))
    options = {
        "n_components": 4, "init": init, "solver": solver, "alpha_W": alpha, "max_iter": 200, "random_state": 1,
        "tol": 1e-4,
    }  # fmt: skip
    W, H, _ = fastpmf.non_negative_factorization(A, **options)
    model = fastpmf.PoissonNMF(**options)
    assert np.array_equal(W, model.fit_transform(A))
    assert np.array_equal(H, model.components_)
    W2, _, _ = fastpmf.non_negative_factorization(A, H=H, update_H=False, **options)
    # Either is within tol nats per count of the one optimum for this H
    objective = [fastpmf.kl_divergence(A, V, H) + alpha / 2 * 10 * (V**2).sum() for V in (W2, model.transform(A))]
    assert objective[0] == pytest.approx(objective[1], abs=1e-4 * A.sum())
