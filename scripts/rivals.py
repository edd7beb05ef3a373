"""Other packages' factorizations behind one manner: take counts and a start, do some iterations, give the factors.

A class says what it is, and imports its package only when a fit is set up. Where a package has a choice, it gets the
dtype and the threads that were asked for, its tests for stopping are turned off, and its penalties are zero.
"""

import math
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
from compare_solvers import COMPILING, Ours, Sklearn
from scipy import sparse

from fastpmf import as_counts

SAME, LDA = "Poisson/KL", "variational LDA"  # the first is the problem that fastpmf solves


class Setup(NamedTuple):
    """What every fit is given."""

    counts: Any  # as read
    X: sparse.csr_array  # in the dtype to work in
    W: np.ndarray
    Ht: np.ndarray
    seed: int
    n_threads: int

    @property
    def n_components(self) -> int:
        """Columns of W."""
        return self.W.shape[1]


class Racer:
    """A fit under way. `advance` does iterations more; or, where `again`, so many in all, from the start."""

    package = "scikit-learn"
    module = "sklearn.decomposition"  # imported before the clock runs
    problem = SAME
    start = "given"
    again = False
    parallel = True
    stretch = 1  # fewest iterations in a call
    compiling = 0  # iterations that come first and are forgotten

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def advance(self, n_iter: int) -> None:
        """Do `n_iter` iterations."""
        raise NotImplementedError

    def factors(self) -> tuple[Any, Any]:
        """W and H as they are; not clocked."""
        raise NotImplementedError

    @classmethod
    def version(cls) -> str | None:
        """What is installed; None if nothing is."""
        try:
            return metadata.version(cls.package)
        except metadata.PackageNotFoundError:
            return None


class Fastpmf(Racer):
    """Extrapolated coordinate descent, the default."""

    package = module = "fastpmf"
    solver = "cd+x"
    compiling = COMPILING

    def __init__(self, setup: Setup) -> None:
        self._fit = Ours(self.solver, as_counts(setup.counts), setup.W, setup.Ht)

    def advance(self, n_iter: int) -> None:
        if self._fit.advance(n_iter) < n_iter:
            raise FloatingPointError("a rate is not finite")

    def factors(self) -> tuple[Any, Any]:
        return self._fit.factors()


class FastpmfMu(Fastpmf):
    """Multiplicative updates."""

    solver = "mu"


class SklearnMu(Racer):
    """NMF(solver="mu", beta_loss="kullback-leibler"), in calls that go on from one another."""

    parallel = False
    stretch = Sklearn.stretch

    def __init__(self, setup: Setup) -> None:
        self._fit = Sklearn(setup.X, setup.W, setup.Ht)

    def advance(self, n_iter: int) -> None:
        self._fit.advance(n_iter)

    def factors(self) -> tuple[Any, Any]:
        return self._fit.factors()


class SklearnMinibatch(Racer):
    """MiniBatchNMF on the same divergence."""

    again = True
    parallel = False

    def advance(self, n_iter: int) -> None:
        from sklearn.decomposition import MiniBatchNMF

        options = {"init": "custom", "beta_loss": "kullback-leibler", "tol": 0, "max_no_improvement": None}
        self._model = MiniBatchNMF(self.setup.n_components, max_iter=n_iter, random_state=self.setup.seed, **options)
        W, H = self.setup.W.copy(), np.ascontiguousarray(self.setup.Ht.T)
        self._W = self._model.fit_transform(self.setup.X, W=W, H=H)

    def factors(self) -> tuple[Any, Any]:
        return self._W, self._model.components_


class SklearnLda(Racer):
    """LatentDirichletAllocation, batch; W and H are the posterior's mean shares."""

    problem = LDA
    start = "own"
    again = True
    parallel = False  # n_jobs are processes, to which the counts would be sent anew in every iteration

    def advance(self, n_iter: int) -> None:
        from sklearn.decomposition import LatentDirichletAllocation

        self._model = LatentDirichletAllocation(
            self.setup.n_components, learning_method="batch", max_iter=n_iter, random_state=self.setup.seed
        ).fit(self.setup.X)

    def factors(self) -> tuple[Any, Any]:
        H = self._model.components_
        return self._model.transform(self.setup.X), H / H.sum(axis=1, keepdims=True)


class Torchnmf(Racer):
    """NMF with beta=1 on a sparse tensor, in calls that go on from one another."""

    package = "torchnmf"
    module = "torchnmf.nmf"
    stretch = 10  # each call computes the divergence once, as a fit does every 10 iterations

    def __init__(self, setup: Setup) -> None:
        import torch
        from torchnmf.nmf import NMF

        torch.set_num_threads(setup.n_threads)
        torch.set_default_dtype(getattr(torch, setup.X.dtype.name))
        X = setup.X.tocoo()
        self._X = torch.sparse_coo_tensor(np.array(X.coords), X.data, X.shape)
        # Its W is our H transposed, and its H our W
        self._model = NMF(W=torch.from_numpy(setup.Ht), H=torch.from_numpy(setup.W))

    def advance(self, n_iter: int) -> None:
        self._model.fit(self._X, beta=1, tol=-math.inf, max_iter=n_iter)

    def factors(self) -> tuple[Any, Any]:
        return self._model.H.detach().numpy(), self._model.W.detach().numpy().T


class Poismf(Racer):
    """PoisMF(method="tncg"), truncated Newton from the last factors on, unpenalised."""

    package = module = "poismf"

    def __init__(self, setup: Setup) -> None:
        self.setup, self._W, self._Ht = setup, setup.W.copy(), setup.Ht.copy()
        self._X = [setup.X.tocsr(copy=True), setup.X.tocsc(copy=True)]
        for X in self._X:
            X.indices, X.indptr = X.indices.astype(np.uintp), X.indptr.astype(np.uintp)

    def advance(self, n_iter: int) -> None:
        from poismf import PoisMF

        model = PoisMF(use_float=self.setup.X.dtype == np.float32)
        model._init(  # `fit` takes no start, and `fit_unsafe`, which does, leaves this to the caller
            k=self.setup.n_components,
            l2_reg=0.0,
            niter=n_iter,
            reuse_prev=True,
            early_stop=False,
            use_float=self.setup.X.dtype == np.float32,
            nthreads=self.setup.n_threads,
        )
        model.fit_unsafe(self._W, self._Ht, *self._X)

    def factors(self) -> tuple[Any, Any]:
        return self._W, self._Ht.T


class Hpfrec(Racer):
    """Hierarchical Poisson factorization by variational inference; W and H are the posterior's means."""

    package = module = "hpfrec"
    problem = "hierarchical Bayes"
    start = "own"
    again = True

    def advance(self, n_iter: int) -> None:
        from hpfrec import HPF

        lean = dict.fromkeys(("verbose", "keep_data", "produce_dicts", "keep_all_objs"), False)
        self._model = HPF(
            self.setup.n_components,
            ncores=self.setup.n_threads,
            maxiter=n_iter,
            check_every=n_iter,
            use_float=self.setup.X.dtype == np.float32,
            random_seed=self.setup.seed,
            **lean,
        ).fit(sparse.coo_matrix(self.setup.X))

    def factors(self) -> tuple[Any, Any]:
        return np.asarray(self._model.Theta), np.asarray(self._model.Beta).T


class GensimNmf(Racer):
    """Online NMF; an iteration is a pass over the rows, and W is solved for when it is scored."""

    package = "gensim"
    module = "gensim.models.nmf"
    problem = "least squares"
    start = "own"
    parallel = False

    def __init__(self, setup: Setup) -> None:
        from gensim.models.nmf import Nmf

        self._X = sparse.csc_matrix(setup.X.T)
        self._model = Nmf(
            num_topics=setup.n_components,
            id2word={j: str(j) for j in range(setup.X.shape[1])},
            eval_every=0,
            random_state=setup.seed,
        )

    def advance(self, n_iter: int) -> None:
        self._model.update(self._X, passes=n_iter)

    def factors(self) -> tuple[Any, Any]:
        # What indexing does document by document, and training with a chunk of them
        W = self._model._solveproj(self._X, self._model._W, v_max=np.inf).T
        return W, self._model.get_topics(normalize=False)


class GensimLda(Racer):
    """Online variational LDA; an iteration is a pass over the rows, and W is inferred when it is scored."""

    package = "gensim"
    module = "gensim.models.ldamodel"
    problem = LDA
    start = "own"
    parallel = False

    def __init__(self, setup: Setup) -> None:
        from gensim.matutils import Sparse2Corpus
        from gensim.models import LdaModel

        self._documents = list(Sparse2Corpus(sparse.csc_matrix(setup.X.T)))
        self._model = LdaModel(
            num_topics=setup.n_components,
            id2word={j: str(j) for j in range(setup.X.shape[1])},
            eval_every=None,
            random_state=setup.seed,
            dtype=setup.X.dtype.type,
        )

    def advance(self, n_iter: int) -> None:
        self._model.update(self._documents, passes=n_iter)

    def factors(self) -> tuple[Any, Any]:
        W, _ = self._model.inference(self._documents)
        return W, self._model.get_topics()


class Implicit(Racer):
    """Alternating least squares on implicit feedback; factors have both signs."""

    package = "implicit"
    module = "implicit.als"
    problem = "weighted least squares"
    start = "own"

    def __init__(self, setup: Setup) -> None:
        from implicit.als import AlternatingLeastSquares

        self._X = sparse.csr_matrix(setup.X)
        self._model = AlternatingLeastSquares(
            setup.n_components,
            dtype=setup.X.dtype,
            num_threads=setup.n_threads,
            random_state=setup.seed,
            use_gpu=False,
        )

    def advance(self, n_iter: int) -> None:
        from threadpoolctl import threadpool_limits

        self._model.iterations = n_iter
        with threadpool_limits(1, "blas"):  # as it asks for
            self._model.fit(self._X, show_progress=False)

    def factors(self) -> tuple[Any, Any]:
        return self._model.user_factors, self._model.item_factors.T


class Enstop(Racer):
    """PLSA by EM, in calls that go on from one another."""

    package = module = "enstop"
    compiling = 1

    def __init__(self, setup: Setup) -> None:
        vars(np).setdefault("float", float)  # which it still asks for, and NumPy no longer has
        X = sparse.csr_matrix(setup.counts)
        if (X.data % 1).any():
            raise ValueError("counts that are not integers: it makes such rows sum to 1, which is another problem")
        X = X.astype(np.int64)
        # Empty rows it drops itself, but not from a start
        self._kept = np.diff(X.indptr) > 0
        sums = setup.Ht.sum(axis=0)
        W = setup.W[self._kept] * sums
        self._X, self._shape = X[self._kept], setup.W.shape
        self._W, self._H = W / W.sum(axis=1, keepdims=True), np.ascontiguousarray((setup.Ht / sums).T)

    def advance(self, n_iter: int) -> None:
        from enstop import PLSA

        model = PLSA(self._shape[1], init=(self._W, self._H), n_iter=n_iter, tolerance=-1.0)
        self._W, self._H = model.fit_transform(self._X), model.components_

    def factors(self) -> tuple[Any, Any]:
        W = np.zeros(self._shape, self._W.dtype)
        W[self._kept] = self._W
        return W, self._H


OURS = {"fastpmf": Fastpmf, "fastpmf-mu": FastpmfMu}
RIVALS = {
    "sklearn-mu": SklearnMu,
    "sklearn-minibatch": SklearnMinibatch,
    "sklearn-lda": SklearnLda,
    "torchnmf": Torchnmf,
    "poismf": Poismf,
    "hpfrec": Hpfrec,
    "gensim-nmf": GensimNmf,
    "gensim-lda": GensimLda,
    "implicit": Implicit,
    "enstop": Enstop,
}
