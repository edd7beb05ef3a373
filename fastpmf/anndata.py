"""Fits of AnnData objects in scanpy's style: cells are rows, and results are written to the object.

poisson_nmf, hpf     fit a model and write W, topic shares and H to the object
consensus            components that many fits agree on, written likewise
bootstrap            intervals of topic shares and of gene shares, from refits to reweighted counts
sample_posterior     the same, from draws of the posterior distribution
overdispersion       how much more the counts of each gene vary than Poisson counts, written to `.var`
transform            W and topic shares of new cells under a fitted model, by gene names
to_dataset           the counts of an AnnData object with the names of cells and genes, for all other functions
to_anndata           W and a fitted model as an AnnData object
"""

import inspect
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from scipy import sparse
from sklearn.utils.validation import check_is_fitted

from fastpmf._version import __version__
from fastpmf.analysis.bootstrap import Bootstrap
from fastpmf.analysis.bootstrap import bootstrap as make_replicates
from fastpmf.analysis.dispersion import Overdispersion
from fastpmf.analysis.draws import FactorDraws
from fastpmf.analysis.gibbs import PosteriorDraws
from fastpmf.analysis.rates import check_groups_given, check_no_groups
from fastpmf.analysis.topics import to_topics
from fastpmf.counts import Dataset, MemoryCounts, as_counts
from fastpmf.counts.labels import Labels, align, labels_of
from fastpmf.counts.masked import observed_counts
from fastpmf.counts.validation import non_integer_fraction
from fastpmf.estimators import HPF, PoissonNMF
from fastpmf.estimators._persistence import to_json
from fastpmf.estimators.base import FactorModel, named_weights
from fastpmf.estimators.consensus import Consensus
from fastpmf.estimators.consensus import consensus as find_consensus
from fastpmf.fitting.problem import REAL_OR_NAN, check_group_labels, vector
from fastpmf.utils.extras import import_optional
from fastpmf.utils.memory import check_memory_for
from fastpmf.utils.messages import brief, listed, suggestion
from fastpmf.utils.validation import check_array, check_option, check_share, check_unique, is_pandas
from fastpmf.utils.warnings import warn

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "bootstrap",
    "consensus",
    "hpf",
    "overdispersion",
    "poisson_nmf",
    "sample_posterior",
    "to_anndata",
    "to_dataset",
    "transform",
]

Model = TypeVar("Model", PoissonNMF, HPF)
Fit = Callable[[Dataset, dict[str, Any]], tuple[np.ndarray, Any, dict[str, Any]]]


def poisson_nmf(
    adata: "AnnData",
    n_components: int,
    *,
    layer: str | None = None,
    mask_var: Any = None,
    W: Any = None,
    H: Any = None,
    fixed_W: Any = None,
    fixed_H: Any = None,
    obs_exposure: Any = None,
    var_exposure: Any = None,
    background: Any = None,
    batch_key: Any = None,
    mask: Any = None,
    sample_weight: Any = None,
    validation: Any = None,
    checkpoint: Any = None,
    resume: Any = None,
    key_added: str | None = None,
    **options: Any,
) -> PoissonNMF:
    """Poisson factorization (KL-NMF) of the counts of an AnnData object.

    Arguments that belong to cells, genes or both may be given as the name of an entry of `adata`, as an array in the
    order of `adata`, or as a pandas Series or DataFrame, which is aligned with `adata` by the names in its index (and
    columns) where these are strings.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
        Counts, not logarithms. A backed `X` is read into memory.
    n_components : int
        Number of components, >= 1.
    layer : str, optional
        Layer of the counts; "raw" is `adata.raw`, unless a layer has this name. By default `adata.X`. With
        `.raw`, n_vars and the entries of `.var` and `.varm` below are those of `adata.raw`.
    mask_var : str or array-like of bool, of shape (n_vars,), optional
        Genes to fit: a column of `.var`, such as "highly_variable", or an array. By default all.
    W, fixed_W : str or array-like of shape (n_obs, n_components), optional
        As in `PoissonNMF.fit`: an entry of `.obsm`, or an array.
    H, fixed_H : str or array-like of shape (n_components, n_vars), optional
        As in `PoissonNMF.fit`: an entry of `.varm`, which is (n_vars, n_components), or an array.
    obs_exposure : str or array-like of shape (n_obs,), optional
        `row_exposure` of `PoissonNMF.fit`, such as library sizes: a column of `.obs`, or an array. W is then in counts
        per unit of exposure.
    var_exposure : str or array-like of shape (n_vars,), optional
        `column_exposure` of `PoissonNMF.fit`: a column of `.var`, or an array.
    background : float, str or array-like of shape (n_vars,), optional
        As in `PoissonNMF.fit`: a number, a column of `.var`, or an array.
    batch_key : str or array-like of shape (n_obs,), optional
        `groups` of `PoissonNMF.fit`, such as batches or donors: a column of `.obs`, or an array of labels. The effects
        of the batches on the genes are fitted with W and H.
    mask : str or matrix of shape (n_obs, n_vars), optional
        As in `PoissonNMF.fit`, positive where an entry is not observed: a layer, or a matrix.
    sample_weight : str or array-like of shape (n_obs,), optional
        As in `PoissonNMF.fit`: a column of `.obs`, or an array.
    validation : float, str or matrix of counts of shape (n_obs, n_vars), optional
        As in `PoissonNMF.fit`: a fraction, a layer, or a matrix.
    checkpoint, resume : optional
        As in `PoissonNMF.fit`.
    key_added : str, optional
        Name of the results in `.obsm`, `.varm` and `.uns`; by default "X_pmf", "PMF" and "pmf".
    **options
        Parameters of `PoissonNMF`, such as `random_state`, `prior_W="auto"`, `n_init`, `max_iter`, `n_threads`. The
        features of a `SeededPrior` are aligned with the genes by name, and may be more than the fitted ones.

    Returns
    -------
    PoissonNMF
        The fitted model. Its features are the fitted genes, by name; `transform` of this module applies it to new
        cells. These results are written to `adata`; pass `adata.copy()` to leave it unchanged:

        - `.obsm[key_added or "X_pmf"]`, W of shape (n_obs, n_components);
        - `.obsm["X_pmf_topics"]`, or with `key_added` that name and "_topics", P(topic | cell) of the same shape: the
          shares of each cell's expected counts, as `model.to_topics(W).mixtures`. They sum to 1; a cell without counts
          has 0, or the nearly equal shares of the prior;
        - `.varm[key_added or "PMF"]`, H transposed, of shape (n_vars, n_components), 0 for genes that were not fitted.
          With `.raw` its rows are aligned by name; genes that only `.raw` has are in the model but not in `.varm`;
        - `.uns[key_added or "pmf"]`, a dictionary: "params", "objective" (nats), "kkt_residual" (nats per count),
          "n_iter", "status", "trace" and "version"; with a seeded prior also "component_names";
        - with `batch_key`, `.varm["PMF_batch_effects"]`, or with `key_added` that name and "_batch_effects", of shape
          (n_vars, n_batches): `group_effects_` transposed, 1 for genes that were not fitted; and in `.uns[...]`
          "batches", the labels of its columns.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, or if `adata` is a view of a backed object, which can't store
        results.
    MemoryError
        If the estimated memory exceeds this process's limit.
    FitInterrupted
        On Ctrl-C. As with any error after the fit, the attribute `model` of the exception is the fitted model, and
        nothing is written to `adata`. ``transform(adata, error.model)`` of this module writes W of the fit so far.

    Warns
    -----
    UserWarning
        If counts are not whole numbers, or gene names are not unique.
    ImplicitModificationWarning
        If `adata` is a view: it becomes a copy with the results, as in anndata. Its parent is not changed.

    See Also
    --------
    fastpmf.anndata.transform : W of new cells.
    fastpmf.seeded_prior : components that start from marker genes.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 30)).astype("float32"))
    >>> model = fastpmf.anndata.poisson_nmf(adata, 3, random_state=0)
    >>> adata.obsm["X_pmf"].shape, adata.obsm["X_pmf_topics"].shape, adata.varm["PMF"].shape, adata.uns["pmf"]["status"]
    ((50, 3), (50, 3), (30, 3), 'CONVERGED')

    With marker genes of one component:

    >>> from fastpmf import seeded_prior
    >>> adata.var_names = [f"gene{j}" for j in range(30)]
    >>> prior = seeded_prior(adata.var_names, {"B cells": ["gene3", "gene7"]}, 3, strength=100)
    >>> model = fastpmf.anndata.poisson_nmf(adata, 3, prior_W="auto", prior_H=prior, random_state=0)
    >>> adata.uns["pmf"]["component_names"].tolist()
    ['B cells', '1', '2']
    """
    _check_options(options, PoissonNMF)
    return _fit(
        adata, PoissonNMF(n_components, **options), key_added, layer=layer, mask_var=mask_var, W=W, H=H,
        fixed_W=fixed_W, fixed_H=fixed_H, obs_exposure=obs_exposure, var_exposure=var_exposure, background=background,
        batch_key=batch_key, mask=mask, sample_weight=sample_weight, validation=validation, checkpoint=checkpoint,
        resume=resume,
    )  # fmt: skip


def hpf(
    adata: "AnnData",
    n_components: int,
    *,
    layer: str | None = None,
    mask_var: Any = None,
    batch_key: Any = None,
    mask: Any = None,
    validation: Any = None,
    checkpoint: Any = None,
    resume: Any = None,
    key_added: str | None = None,
    **options: Any,
) -> HPF:
    """Hierarchical Poisson factorization of the counts of an AnnData object, as in scHPF; results are posterior means.

    Parameters
    ----------
    adata, n_components, layer, mask_var, batch_key, mask, validation, checkpoint, resume
        As in `poisson_nmf`.
    key_added : str, optional
        Name of the results in `.obsm`, `.varm` and `.uns`; by default "X_hpf", "HPF" and "hpf".
    **options
        Parameters of `HPF`.

    Returns
    -------
    HPF
        The fitted model. Results are written as by `poisson_nmf`, except that `.uns` has "bound", in nats, instead of
        "objective" and "kkt_residual".

    See Also
    --------
    HPF : the estimator.
    fastpmf.anndata.poisson_nmf : maximum likelihood or posterior modes.
    fastpmf.anndata.transform : further cells, with a fitted model.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 30)).astype("float32"))
    >>> model = fastpmf.anndata.hpf(adata, 3, random_state=0)
    >>> adata.obsm["X_hpf"].shape
    (50, 3)
    """
    _check_options(options, HPF)
    return _fit(
        adata, HPF(n_components, **options), key_added, layer=layer, mask_var=mask_var, batch_key=batch_key, mask=mask,
        validation=validation, checkpoint=checkpoint, resume=resume,
    )  # fmt: skip


def consensus(
    adata: "AnnData",
    n_components: int,
    *,
    layer: str | None = None,
    mask_var: Any = None,
    obs_exposure: Any = None,
    var_exposure: Any = None,
    background: Any = None,
    batch_key: Any = None,
    mask: Any = None,
    sample_weight: Any = None,
    key_added: str | None = None,
    **options: Any,
) -> Consensus:
    """Components that many fits of the counts of an AnnData object agree on; see `fastpmf.consensus`.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
        Counts, not logarithms.
    n_components : int
        Number of components, >= 1.
    layer, mask_var, obs_exposure, var_exposure, background, batch_key, mask, sample_weight : optional
        As in `poisson_nmf`.
    key_added : str, optional
        As in `poisson_nmf`.
    **options
        Other parameters of `fastpmf.consensus`, such as `n_replicates`, `estimator`, `resample`, `density_threshold`,
        `replicates`, `random_state`.

    Returns
    -------
    Consensus
        These results are written to `adata`: those of `poisson_nmf`, for the consensus and its W, and in
        `.uns[key_added or "pmf"]` also "stability" and "n_kept", the number of replicates in each component.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.
    MemoryError
        If the estimated memory of a fit exceeds this process's limit.
    ConsensusInterrupted
        On Ctrl-C after at least two complete replicates; nothing is written to `adata`.

    See Also
    --------
    fastpmf.consensus : the same for matrices, described.
    fastpmf.plot.consensus : draws the result.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(100, 50, 2, nnz=2_000, random_state=0).X
    >>> adata = anndata.AnnData(X.toarray().astype("float32"))
    >>> found = fastpmf.anndata.consensus(adata, 2, n_replicates=5, random_state=0)
    >>> adata.obsm["X_pmf"].shape, adata.varm["PMF"].shape, adata.uns["pmf"]["stability"].round(1).tolist()
    ((100, 2), (50, 2), [1.0, 1.0])
    """
    found: list[Consensus] = []

    def fit(X: Dataset, arguments: dict[str, Any]) -> tuple[np.ndarray, PoissonNMF, dict[str, Any]]:
        result = find_consensus(X, n_components, **arguments, **options)
        found.append(result)
        return result.W, result.model, {"stability": result.stability, "n_kept": result.n_kept}

    _check_parameters(options, find_consensus, consensus)
    model = PoissonNMF(n_components, n_threads=options.get("n_threads"))
    _fit(
        adata, model, key_added, fit, layer=layer, mask_var=mask_var, obs_exposure=obs_exposure,
        var_exposure=var_exposure, background=background, batch_key=batch_key, mask=mask, sample_weight=sample_weight,
    )  # fmt: skip
    return found[0]


def transform(
    adata: "AnnData",
    model: PoissonNMF | HPF,
    *,
    layer: str | None = None,
    obs_exposure: Any = None,
    batch_key: Any = None,
    new_batches: str = "ignore",
    mask: Any = None,
    key_added: str | None = None,
) -> np.ndarray:
    """W of new cells under a fitted model; genes are aligned with the fitted ones by name.

    Genes that were not fitted are left out. Fitted genes that `adata` lacks are treated as not observed: W is
    computed from the others, as with a mask. If the model has no feature names, genes are matched by position.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
    model : PoissonNMF or HPF
        The result of `poisson_nmf` or `hpf`, or an estimator fitted to a matrix.
    layer, mask
        As in `poisson_nmf`.
    obs_exposure : str or array-like of shape (n_obs,), optional
        As in `poisson_nmf`; must be None for `HPF`, which has no exposures.
    batch_key : str or array-like of shape (n_obs,), optional
        As in `poisson_nmf`; needed if the model was fitted with batches.
    new_batches : {"ignore", "estimate"}, default="ignore"
        What to do with batches that were not fitted. "ignore": their effects are 1, with a warning. "estimate": their
        effects are fitted to these cells, with H fixed.
    key_added : str, optional
        Name of W in `.obsm`; by default "X_pmf" or "X_hpf".

    Returns
    -------
    W : ndarray of shape (n_obs, n_components)
        Also written to `.obsm[key_added or "X_pmf"]`, together with the topic shares, as by `poisson_nmf`.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, `adata` has none of the fitted genes (or, without feature names,
        another number of genes), or gene names are not unique.

    Warns
    -----
    UserWarning
        If `adata` lacks fitted genes, its counts are not whole numbers, or effects of new batches are taken as 1.

    See Also
    --------
    fastpmf.anndata.poisson_nmf : fits a model.
    fastpmf.anndata.hpf : fits a model.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 30)).astype("float32"))
    >>> old, new = adata[:40].copy(), adata[40:, ::-1].copy()
    >>> model = fastpmf.anndata.poisson_nmf(old, 3, random_state=0)
    >>> fastpmf.anndata.transform(new, model).shape, new.obsm["X_pmf_topics"].shape
    ((10, 3), (10, 3))
    """
    counts = _Counts.of(adata, layer)
    if not isinstance(model, PoissonNMF | HPF):
        raise TypeError(f"model must be a PoissonNMF or HPF, got {type(model).__name__}")
    check_is_fitted(model)
    keys = _Keys.of(model, key_added)
    arguments: dict[str, Any] = {}
    if obs_exposure is not None:
        if isinstance(model, HPF):
            raise TypeError("obs_exposure must be None, since HPF has no exposures")
        arguments["row_exposure"] = vector(counts.obs_column(obs_exposure, "obs_exposure"), adata.n_obs, "obs_exposure")
    check_option(new_batches, ("ignore", "estimate"), "new_batches")
    check_groups_given(model, batch_key, "batch_key")
    if batch_key is not None:
        arguments |= {"groups": counts.batches(batch_key), "new_groups": new_batches}
    place = _positions_of_fitted(model, counts)
    if mask is not None:
        mask = counts.matrix(mask, "mask")
    _check_writable(adata)
    X = counts.read(mask).to_scipy()
    names = getattr(model, "feature_names_in_", None)
    here, missing = np.flatnonzero(place >= 0), np.flatnonzero(place < 0)
    if names is not None and len(missing):
        warn(
            f"{counts.where} lacks {len(missing)} of the {len(place)} fitted genes ({listed(names[missing], 3)}): "
            "they are treated as not observed",
        )
    if mask is not None:
        arguments["mask"] = mask[:, place[here]]
    data = Dataset(X[:, place[here]], column_names=None if names is None else names[here])
    W = np.asarray(model._with_features(here).transform(data, **arguments))
    _write_weights(adata, keys, W, model)
    return W


def overdispersion(
    adata: "AnnData", model: PoissonNMF | HPF, *, layer: str | None = None, obs_exposure: Any = None,
    batch_key: Any = None, key_added: str | None = None,
) -> Overdispersion:  # fmt: skip
    """How much more the counts of each gene vary than Poisson counts of the fitted rates; see `fastpmf.overdispersion`.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
        With the results of `poisson_nmf` or `hpf` for these cells.
    model : PoissonNMF or HPF
        The fitted model.
    layer : str, optional
        As in `poisson_nmf`.
    obs_exposure : str or array-like of shape (n_obs,), optional
        As in `poisson_nmf`; the exposures of the fit.
    batch_key : str or array-like of shape (n_obs,), optional
        As in `poisson_nmf`; needed if the model was fitted with batches.
    key_added : str, optional
        That of the fit.

    Returns
    -------
    Overdispersion
        Its features are the fitted genes. These results are written to `adata`, with `key_added` in place of "pmf" or
        "hpf":

        - `.var["pmf_dispersion"]`, `.var["pmf_variance_ratio"]`, `.var["pmf_dispersion_z"]` and
          `.var["pmf_dispersion_p"]`, float64, NaN for genes that were not fitted;
        - `.var["pmf_overdispersed"]`, bool, false for genes that were not fitted;
        - `.uns["pmf_overdispersion"]`, a dictionary with the values of all genes together.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, or `adata` lacks W or a fitted gene.

    See Also
    --------
    fastpmf.plot.overdispersion : draws the result.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 30)).astype("float32"))
    >>> model = fastpmf.anndata.poisson_nmf(adata, 3, random_state=0)
    >>> found = fastpmf.anndata.overdispersion(adata, model)
    >>> bool((adata.var["pmf_dispersion"] == found.dispersion).all()), int(adata.var["pmf_overdispersed"].sum())
    (True, 0)
    """
    fitted = _Fitted.of(adata, model, layer, obs_exposure, batch_key, None, key_added)
    keys = fitted.keys
    if keys.obsm not in adata.obsm:
        raise ValueError(f"adata must have W in .obsm[{keys.obsm!r}]: fit with this key_added, or transform")
    found = model.overdispersion(fitted.data(), np.asarray(adata.obsm[keys.obsm]), **fitted.given)
    columns = {
        "dispersion": found.dispersion, "variance_ratio": found.variance_ratio, "dispersion_z": found.z_score,
        "dispersion_p": found.p_value, "overdispersed": found.overdispersed,
    }  # fmt: skip
    with _written():
        for name, values in columns.items():
            adata.var[f"{keys.uns}_{name}"] = fitted.of_genes(values, False if values.dtype == bool else np.nan)
        adata.uns[f"{keys.uns}_overdispersion"] = {
            name: getattr(found, f"overall_{name}")
            for name in ("dispersion", "standard_error", "variance_ratio", "z_score", "p_value")
        }
    return found


def bootstrap(
    adata: "AnnData", model: PoissonNMF, *, level: float = 0.9, layer: str | None = None, obs_exposure: Any = None,
    batch_key: Any = None, mask: Any = None, key_added: str | None = None, **options: Any,
) -> Bootstrap:  # fmt: skip
    """Intervals of topic shares and gene shares, from refits to reweighted counts; see `fastpmf.bootstrap`.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
        The fitted cells.
    model : PoissonNMF
        The result of `poisson_nmf`.
    level : float, default=0.9
        Of the intervals, between 0 and 1.
    layer, obs_exposure, batch_key, mask : optional
        Those of the fit, as in `poisson_nmf`.
    key_added : str, optional
        That of the fit.
    **options
        Other parameters of `fastpmf.bootstrap`: `n_replicates`, `kind`, `random_state`, `verbose`.

    Returns
    -------
    Bootstrap
        Its features are the fitted genes. These results are written to `adata`, with `key_added` in place of "X_pmf",
        "PMF" and "pmf":

        - `.obsm["X_pmf_topics_low"]` and `.obsm["X_pmf_topics_high"]`, of shape (n_obs, n_components): intervals of
          P(topic | cell), without exposures of genes;
        - `.varm["PMF_shares_low"]` and `.varm["PMF_shares_high"]`, of shape (n_vars, n_components): intervals of
          P(gene | topic), NaN for genes that were not fitted;
        - `.uns["pmf_intervals"]`, a dictionary: "level", "n_draws" and "identified", whether each component stays
          itself in the replicates.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, or `adata` lacks a fitted gene.
    MemoryError
        If the replicates exceed this process's limit.
    DrawsInterrupted
        On Ctrl-C after at least two replicates; nothing is written to `adata`.

    See Also
    --------
    fastpmf.bootstrap : the same for matrices, described.
    fastpmf.plot.intervals : draws the result.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(100, 50, 2, nnz=2_000, random_state=0).X
    >>> adata = anndata.AnnData(X.toarray().astype("float32"))
    >>> model = fastpmf.anndata.poisson_nmf(adata, 2, random_state=0)
    >>> replicates = fastpmf.anndata.bootstrap(adata, model, n_replicates=20, random_state=0)
    >>> low, high = adata.obsm["X_pmf_topics_low"], adata.obsm["X_pmf_topics_high"]
    >>> bool((low <= high).all()), adata.uns["pmf_intervals"]["identified"].tolist()
    (True, [True, True])
    """
    if not isinstance(model, PoissonNMF):
        raise TypeError(f"model must be a PoissonNMF, got {type(model).__name__}; HPF has sample_posterior")
    check_share(level, "level")
    _check_parameters(options, make_replicates, bootstrap)
    fitted = _Fitted.of(adata, model, layer, obs_exposure, batch_key, mask, key_added)
    found = make_replicates(model, fitted.data(), **fitted.given, **options)
    _write_intervals(fitted, found, level, {"identified": found.identified})
    return found


def sample_posterior(
    adata: "AnnData", model: PoissonNMF | HPF, *, level: float = 0.9, layer: str | None = None,
    obs_exposure: Any = None, mask: Any = None, key_added: str | None = None, **options: Any,
) -> PosteriorDraws:  # fmt: skip
    """Intervals of topic shares and gene shares, from draws of the posterior; see `HPF.sample_posterior`.

    Parameters
    ----------
    adata, level, layer, obs_exposure, mask, key_added
        As in `bootstrap`; `obs_exposure` must be None for `HPF`, which has no exposures.
    model : PoissonNMF with priors of W and H, or HPF
        The result of `poisson_nmf` or `hpf`, fitted without batches.
    **options
        Other parameters of `sample_posterior`: `n_draws`, `burn_in`, `thin`, `random_state`.

    Returns
    -------
    PosteriorDraws
        Intervals are written to `adata` as by `bootstrap`; `.uns["pmf_intervals"]` has "effective_draws" in place of
        "identified".

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, the model has no priors of both factors, or `adata` lacks a fitted
        gene.
    MemoryError
        If the draws exceed this process's limit.
    DrawsInterrupted
        On Ctrl-C after at least two draws; nothing is written to `adata`.

    See Also
    --------
    HPF.sample_posterior, PoissonNMF.sample_posterior : the same for matrices, described.
    fastpmf.plot.intervals : draws the result.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(100, 50, 2, nnz=2_000, random_state=0).X
    >>> adata = anndata.AnnData(X.toarray().astype("float32"))
    >>> model = fastpmf.anndata.hpf(adata, 2, tol=1e-3, random_state=0)
    >>> draws = fastpmf.anndata.sample_posterior(adata, model, n_draws=50, random_state=0)
    >>> adata.varm["HPF_shares_low"].shape, adata.uns["hpf_intervals"]["n_draws"]
    ((50, 2), 50)
    """
    check_share(level, "level")
    check_no_groups(model, "model", "fit without batch_key, since sample_posterior has no batches")
    _check_parameters(
        options, type(model).sample_posterior if isinstance(model, HPF | PoissonNMF) else HPF, sample_posterior
    )
    fitted = _Fitted.of(adata, model, layer, obs_exposure, None, mask, key_added)
    found = model.sample_posterior(fitted.data(), **fitted.given, **options)
    _write_intervals(fitted, found, level, {"effective_draws": found.effective_draws})
    return found


def to_dataset(adata: "AnnData", *, layer: str | None = None, mask_var: Any = None) -> Dataset:
    """The counts of an AnnData object with the names of its cells and genes.

    `select_n_components`, the methods of fitted models and the plots accept the result as X. They then know the names
    of the genes, as the functions of this module do.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
    layer, mask_var
        As in `poisson_nmf`: for its results give the same ones here.

    Returns
    -------
    Dataset
        With X as a canonical CSR array of shape (n_obs, number of chosen genes).

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    Warns
    -----
    UserWarning
        If counts are not whole numbers.

    See Also
    --------
    fastpmf.anndata.poisson_nmf : fits the counts and writes the results into the AnnData object.
    fastpmf.anndata.to_anndata : the other direction, for a fitted model.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 30)).astype("float32"))
    >>> model = fastpmf.anndata.poisson_nmf(adata, 3, random_state=0)
    >>> model.quality(fastpmf.anndata.to_dataset(adata)).npmi.shape
    (3,)
    """
    counts = _Counts.of(adata, layer)
    chosen = counts.chosen_genes(mask_var)
    X = counts.read().to_scipy()
    X = X if chosen.all() else X[:, chosen]
    return Dataset(X, np.asarray(adata.obs_names).astype(str), counts.gene_names[chosen].astype(str))


def to_anndata(W: Any, model: FactorModel, obs_names: Any = None) -> "AnnData":
    """W and its fitted model as an AnnData object without X, with the results that `poisson_nmf` or `hpf` write.

    Parameters
    ----------
    W : array-like of shape (n_obs, n_components)
        The result of `fit_transform` or `transform`.
    model : PoissonNMF or HPF
        Fitted. Its feature names, if it has any, become the names of the variables.
    obs_names : array-like of str, of shape (n_obs,), optional
        Names of the cells; a DataFrame W is put in their order. By default those of W, or else numbers.

    Returns
    -------
    AnnData
        W and P(topic | row) in `.obsm`, H transposed in `.varm`, and a dictionary in `.uns`, as by `poisson_nmf`.

    Raises
    ------
    ValueError
        If W does not have a column for each component, or `obs_names` does not have a name for each row.

    See Also
    --------
    fastpmf.io.write_factors : writes factors to a file.

    Examples
    --------
    >>> from fastpmf import PoissonNMF
    >>> from fastpmf.anndata import to_anndata
    >>> model = PoissonNMF(2, random_state=0)
    >>> W = model.fit_transform([[4, 0, 2], [0, 3, 0], [2, 0, 1]])
    >>> to_anndata(W, model).shape
    (3, 3)
    """
    anndata, pandas = import_optional("anndata", "anndata"), import_optional("pandas", "anndata")
    W, names = named_weights(W, model, obs_names, "obs_names")
    names = np.arange(len(W)).astype(str) if names is None else names
    p = model.components_.shape[1]
    features = getattr(model, "feature_names_in_", np.arange(p)).astype(str)
    adata = anndata.AnnData(obs=pandas.DataFrame(index=names), var=pandas.DataFrame(index=features))
    _write(adata, _Keys.of(model), W, model, np.arange(p), _parameters(model))
    return adata


_OTHER_NAMES = {"seed": "random_state", "n_jobs": "n_threads", "row_exposure": "obs_exposure",
                "column_exposure": "var_exposure", "groups": "batch_key"}  # fmt: skip


def _check_options(options: dict[str, Any], kind: Any) -> None:
    """Raise a TypeError for an option that an estimator of this class does not have; it names a similar one."""
    arguments = {fit: set(inspect.signature(fit).parameters) for fit in (poisson_nmf, hpf)}
    own = arguments[hpf if kind is HPF else poisson_nmf]
    known = sorted({*inspect.signature(kind).parameters, *own} - {"adata", "options"})
    for name in options:
        if name not in known:
            other = _OTHER_NAMES.get(name, name)
            if other in known:
                advice = f"; did you mean {other!r}?"
            elif other in arguments[poisson_nmf]:
                advice = ": it is an argument of poisson_nmf only"
            else:
                advice = suggestion(name, known) or f", which has {listed(known, 99)}"
            raise TypeError(f"{brief(name)} is not a parameter of {kind.__name__}{advice}")


def _check_parameters(options: dict[str, Any], function: Callable[..., Any], own: Callable[..., Any]) -> None:
    """Raise a TypeError for an option that neither a function nor that of this module has; it names a similar one."""
    known = sorted({*inspect.signature(function).parameters, *inspect.signature(own).parameters} - {*_NOT_GIVEN})
    for name in options:
        if name not in known:
            raise TypeError(f"{brief(name)} is not a parameter of {function.__name__}{suggestion(name, known)}")


def _fit(
    adata: "AnnData", model: Model, key_added: Any, fit: Fit | None = None, *, layer: Any, mask_var: Any,
    **arguments: Any,
) -> Model:  # fmt: skip
    """Fit the model and write the results to adata; `arguments` are those of `poisson_nmf`.

    `fit` gives W, another model, which is returned, and facts to write.
    """
    counts, keys = _Counts.of(adata, layer), _Keys.of(model, key_added)
    names = {"layer": layer, "mask_var": mask_var} | arguments
    places = {name: value for name, value in names.items() if isinstance(value, str)}
    chosen = counts.chosen_genes(mask_var)
    place = _positions_among_fitted(adata, counts, chosen)
    mask = arguments.get("mask")
    if mask is not None:
        arguments["mask"] = mask = counts.matrix(mask, "mask")
    fit_arguments = {
        _RENAMED.get(name, name): counts.argument(name, value, chosen)
        for name, value in arguments.items()
        if value is not None
    }
    _check_writable(adata)
    X = counts.read(mask)
    if not chosen.all():
        X = as_counts(X.to_scipy()[:, chosen], n_threads=model.n_threads)
    data, facts = Dataset(X, column_names=counts.gene_names[chosen]), dict[str, Any]()
    try:
        if fit is None:
            # scikit-learn may be configured to return DataFrames
            W = np.asarray(model.fit_transform(data, **fit_arguments))
        else:
            W, model, facts = fit(data, fit_arguments)
        _write(adata, keys, W, model, place, _parameters(model) | places)
        adata.uns[keys.uns] |= facts
    except BaseException as error:
        if hasattr(model, "components_"):
            error.model = model  # type: ignore[attr-defined]
            error.add_note("The attribute `model` of this exception is the fitted model.")
        raise
    return model


# ── Counts and arguments from an AnnData object ─────────────────────────────────────────────────────────────────

_RENAMED = {"obs_exposure": "row_exposure", "var_exposure": "column_exposure", "batch_key": "groups"}  # as in fit
_NOT_GIVEN = {*_RENAMED.values(), "self", "model", "X"}  # of other functions, which have them by other names here


class _Counts(NamedTuple):
    """The counts that `layer` selects, before they are read, their name in messages, and their genes."""

    adata: "AnnData"
    X: Any
    where: str
    var: Any
    varm: Any

    @classmethod
    def of(cls, adata: "AnnData", layer: str | None) -> "_Counts":
        if not hasattr(adata, "obsm") or not hasattr(adata, "varm"):
            raise TypeError(
                f"adata must be an AnnData object, got {type(adata).__name__}; PoissonNMF and HPF take matrices"
            )
        raw, layers = getattr(adata, "raw", None), _layers(adata)
        if layer is None:
            if adata.X is None:
                raise ValueError("adata.X is None: layer must name the layer of the counts")
            return cls(adata, adata.X, "adata.X", adata.var, adata.varm)
        if layer in layers:
            return cls(adata, adata.layers[layer], f"adata.layers[{layer!r}]", adata.var, adata.varm)
        if layer == "raw" and raw is not None:
            return cls(adata, raw.X, "adata.raw", raw.var, raw.varm)
        names = [*layers, *(["raw"] if raw is not None else [])]
        known = f"None for adata.X, or {listed(names)}" if names else "None, since adata has neither layers nor raw"
        raise ValueError(f"layer must be {known}, got {brief(layer)}")

    @property
    def var_name(self) -> str:
        """Name of `var` in messages."""
        return "adata.raw.var" if self.where == "adata.raw" else "adata.var"

    @property
    def gene_names(self) -> np.ndarray:
        return np.asarray(self.var.index).astype(str).astype(object)

    @property
    def genes(self) -> Labels:
        return Labels(self.gene_names, source=self.var_name.removesuffix(".var"), item="gene")

    @property
    def cells(self) -> Labels:
        return Labels(np.asarray(self.adata.obs_names), source="adata", item="cell")

    def read(self, mask: Any = None) -> MemoryCounts:
        """The counts in memory, without the entries of `mask`; warn if they are not whole numbers."""
        counts = observed_counts(_in_memory(self.X, self.where), mask, name=self.where)
        if share := non_integer_fraction(counts.to_scipy().data):
            layers = [name for name in _layers(self.adata) if f"[{name!r}]" not in self.where]
            layers += ["raw"] if getattr(self.adata, "raw", None) is not None and self.where != "adata.raw" else []
            advice = f"layer may be {listed(layers)}" if layers else "fit raw counts"
            warn(
                f"{self.where} doesn't look like counts: {share:.0%} of its nonzeros are not whole numbers, as after "
                f"normalisation or logarithms; {advice}",
            )
        return counts

    def argument(self, name: str, value: Any, chosen: np.ndarray) -> Any:
        """An argument of `poisson_nmf` as that of `PoissonNMF.fit`, for the chosen genes."""
        if name in ("obs_exposure", "sample_weight"):
            value = self.obs_column(value, name)
            return vector(value, len(value), name, zero=name == "sample_weight")
        if name in ("var_exposure", "background") and (isinstance(value, str) or np.ndim(value)):
            value = self.var_column(value, name)[chosen]
            return vector(value, len(value), name) if name == "var_exposure" else value
        if name == "batch_key":
            return self.batches(value)
        if name in ("mask", "validation") and not isinstance(value, int | float | np.number):
            return self.matrix(value, name)[:, chosen]
        if name in ("W", "fixed_W"):
            return align(_entry(value, self.adata.obsm, name, "adata.obsm"), name, rows=self.cells)
        if name in ("H", "fixed_H"):
            return self._loadings(value, name, chosen)
        return value

    def obs_column(self, value: Any, name: str) -> np.ndarray:
        return _column(value, self.adata.obs, name, self.cells, "adata.obs")

    def batches(self, value: Any) -> np.ndarray:
        """The label of the batch of each cell."""
        return check_group_labels(self.obs_column(value, "batch_key"), self.adata.n_obs, "batch_key")

    def var_column(self, value: Any, name: str) -> np.ndarray:
        return _column(value, self.var, name, self.genes, self.var_name)

    def chosen_genes(self, mask_var: Any) -> np.ndarray:
        """Which genes to fit, as bools."""
        if mask_var is None:
            return np.ones(len(self.var), bool)
        mask = self.var_column(mask_var, "mask_var")
        if mask.dtype != bool:
            raise ValueError(f"mask_var must hold booleans, got {mask.dtype}")
        if not mask.any():
            raise ValueError("mask_var must choose at least one gene, got none")
        return mask

    def matrix(self, value: Any, name: str) -> sparse.csr_array:
        """A layer by its name, or a matrix of cells and genes, aligned by its labels, if any."""
        if isinstance(value, str):
            layers = {key: self.adata.layers[key] for key in _layers(self.adata)}
            value = _in_memory(_entry(value, layers, name, "adata.layers"), f"adata.layers[{value!r}]")
        counts = as_counts(align(value, name, rows=self.cells, columns=self.genes), name=name)
        if counts.shape != (shape := (self.adata.n_obs, len(self.var))):
            raise ValueError(f"{name} must have shape {shape}, got {counts.shape}")
        return counts.to_scipy()

    def _loadings(self, value: Any, name: str, chosen: np.ndarray) -> Any:
        """H for the chosen genes: an entry of varm by its name, transposed, or an array.

        An array with labels may have columns for the chosen genes only.
        """
        H = _entry(value, self.varm, name, f"{self.var_name}m")
        H = H.T if isinstance(value, str) else H
        own = labels_of(H, 1)
        if own.names is not None and own.values is not None and own.values.tolist() != self.gene_names.tolist():
            return align(H, name, columns=self.genes._replace(values=self.gene_names[chosen]))
        if not is_pandas(H):  # a DataFrame may have labels of components too
            H = check_array(H, name, REAL_OR_NAN)
        if H.ndim != 2 or H.shape[1] != len(chosen):
            raise ValueError(f"{name} must have {len(chosen)} columns, one for each gene, got shape {H.shape}")
        return H[:, chosen] if isinstance(H, np.ndarray) else H.loc[:, chosen]


def _layers(adata: "AnnData") -> list[str]:
    return [name for name in adata.layers if name is not None]  # None is X from anndata 0.13 on


def _entry(value: Any, entries: Any, name: str, owner: str, kind: str = "key") -> Any:
    """An entry of adata if `value` is its name, else the value itself."""
    if not isinstance(value, str):
        return value
    if value not in entries:
        known = listed(entries) or "none"
        raise ValueError(f"{name} must be a {kind} of {owner}, which are {known}, got {brief(value)}")
    return entries[value]


def _column(value: Any, frame: Any, name: str, labels: Labels, owner: str) -> np.ndarray:
    """A column of obs or var by its name, or an array of its length, aligned by its labels, if any."""
    values = np.asarray(align(_entry(value, frame, name, owner, "column"), name, rows=labels))
    values = np.full(len(frame), values) if values.ndim == 0 else values
    if values.shape != (len(frame),):
        raise ValueError(
            f"{name} must have shape ({len(frame)},), or be the name of a column of {owner}, got shape {values.shape}"
        )
    return values


def _in_memory(X: Any, where: str) -> Any:
    """X, read into memory if it is backed."""
    if hasattr(X, "__dask_graph__"):
        raise TypeError(
            f"{where} must be in memory, got a Dask {type(X).__name__}: give adata.to_memory(), or fit "
            "fastpmf.dask.PoissonNMF(...).fit(adata) over the workers of a cluster"
        )
    if not hasattr(X, "to_memory"):
        return X
    needs = sum(X.group[name].nbytes for name in ("data", "indices", "indptr"))
    check_memory_for(where, needs, ": fit the file with PoissonNMF(...).fit(fastpmf.io.stream_counts(path))")
    return X.to_memory()


def _positions_of_fitted(model: FactorModel, counts: _Counts) -> np.ndarray:
    """Position in the counts of each of the fitted genes, (n_features,); -1 if they lack it."""
    names, own = getattr(model, "feature_names_in_", None), counts.gene_names
    n = model.components_.shape[1]
    if names is None and len(own) != n:
        raise ValueError(f"adata must have the {n} fitted genes, since model has no feature names, got {len(own)}")
    if names is None or np.array_equal(names, own):
        return np.arange(n)
    check_unique(names, "names of the model (model.feature_names_in_)", "fit again with names made unique")
    check_unique(own, f"{counts.var_name}_names")
    place = counts.var.index.get_indexer(names)
    if (place < 0).all():
        raise ValueError(
            f"adata must have fitted genes ({listed(names, 3)}), got none of them in {counts.var_name}_names "
            f"({listed(own, 3)})"
        )
    return place


class _Fitted(NamedTuple):
    """The counts of all genes of a fitted model, what was given beside them, and the names of the results."""

    counts: _Counts
    model: FactorModel
    keys: "_Keys"
    place: np.ndarray
    given: dict[str, Any]

    @classmethod
    def of(
        cls, adata: "AnnData", model: FactorModel, layer: Any, obs_exposure: Any, batch_key: Any, mask: Any,
        key_added: Any,
    ) -> "_Fitted":  # fmt: skip
        """Check the arguments, which are as in `poisson_nmf`; nothing is read."""
        counts = _Counts.of(adata, layer)
        if not isinstance(model, PoissonNMF | HPF):
            raise TypeError(f"model must be a PoissonNMF or HPF, got {type(model).__name__}")
        check_is_fitted(model)
        check_groups_given(model, batch_key, "batch_key")
        given: dict[str, Any] = {}
        if obs_exposure is not None:
            if isinstance(model, HPF):
                raise TypeError("obs_exposure must be None, since HPF has no exposures")
            given["row_exposure"] = vector(counts.obs_column(obs_exposure, "obs_exposure"), adata.n_obs, "obs_exposure")
        if batch_key is not None:
            given["groups"] = counts.batches(batch_key)
        place = _positions_of_fitted(model, counts)
        if n_missing := np.count_nonzero(place < 0):
            raise ValueError(f"{counts.where} must have all {len(place)} fitted genes, and lacks {n_missing} of them")
        if mask is not None:
            given["mask"] = counts.matrix(mask, "mask")[:, place]
        _check_writable(adata)
        return cls(counts, model, _Keys.of(model, key_added), place, given)

    def data(self) -> Dataset:
        """The counts of the fitted genes."""
        X = self.counts.read().to_scipy()[:, self.place]
        return Dataset(X, column_names=getattr(self.model, "feature_names_in_", None))

    def of_genes(self, values: np.ndarray, otherwise: Any) -> np.ndarray:
        """Values of the fitted genes (p, ...) in the order of the genes of the object."""
        var, names = self.counts.var, self.counts.adata.var_names
        genes = var.index.get_indexer(names) if self.counts.where == "adata.raw" else np.arange(len(names))
        of_counts = np.full((len(var) + 1, *values.shape[1:]), otherwise)
        of_counts[self.place] = values
        return of_counts[genes]  # -1, of a gene that is not in the counts, is the last


def _positions_among_fitted(adata: "AnnData", counts: _Counts, chosen: np.ndarray) -> np.ndarray:
    """Position among the fitted genes of each gene of adata, (n_vars,); -1 if it is not fitted."""
    if counts.where != "adata.raw":
        return np.where(chosen, chosen.cumsum() - 1, -1)
    fitted = counts.var.index[chosen]
    check_unique(np.asarray(fitted), "adata.raw.var_names")
    return fitted.get_indexer(adata.var_names)


# ── Results in an AnnData object ────────────────────────────────────────────────────────────────────────────────


class _Keys(NamedTuple):
    """Names of the results in `.obsm`, `.varm` and `.uns`."""

    obsm: str
    varm: str
    uns: str

    @classmethod
    def of(cls, model: FactorModel, key_added: Any = None) -> "_Keys":
        if key_added is None:
            return cls("X_hpf", "HPF", "hpf") if isinstance(model, HPF) else cls("X_pmf", "PMF", "pmf")
        if not isinstance(key_added, str):
            raise TypeError(f"key_added must be a str, got {brief(key_added)}")
        if not key_added or "/" in key_added:  # which separates groups in HDF5 and zarr
            raise ValueError(
                f"key_added must be a name without '/', so that it can be written to a file, got {brief(key_added)}"
            )
        return cls(key_added, key_added, key_added)


def _check_writable(adata: "AnnData") -> None:
    """Raise an error if results can't be written to adata; warn if it is a view, which then becomes a copy."""
    if adata.is_view and adata.isbacked:
        raise ValueError(
            "adata must not be a view of a backed object, which can't store the results: give adata.to_memory()"
        )
    if adata.is_view:
        warn(
            "adata is a view and becomes a copy with the results",
            import_optional("anndata", "anndata").ImplicitModificationWarning,
        )


def _write(
    adata: "AnnData", keys: _Keys, W: np.ndarray, model: FactorModel, place: np.ndarray, parameters: dict[str, Any]
) -> None:
    """Write all results of a fit; `place` is that of `_positions_among_fitted`."""
    H = model.components_
    loadings = np.zeros((len(place), len(H)), H.dtype)
    loadings[place >= 0] = H.T[place[place >= 0]]
    facts: dict[str, Any] = {
        "params": parameters, "n_iter": model.n_iter_, "status": model.status_.name, "version": __version__
    }  # fmt: skip
    nmf = {"objective": "objective_", "kkt_residual": "kkt_residual_"}
    for key, attribute in {"trace": "trace_", **({"bound": "elbo_"} if isinstance(model, HPF) else nmf)}.items():
        if hasattr(model, attribute):  # `partial_fit` of HPF sets neither trace nor bound
            facts[key] = getattr(model, attribute)
    if (names := getattr(model, "component_names_", None)) is not None:
        facts["component_names"] = names.astype(str)
    effects, name = getattr(model, "group_effects_", None), f"{keys.varm}_batch_effects"
    _write_weights(adata, keys, W, model)
    if effects is not None:
        adata.varm[name] = np.ones((len(place), len(effects)))
        adata.varm[name][place >= 0] = effects.T[place[place >= 0]]
        facts["batches"] = model.group_names_
    elif name in adata.varm:
        del adata.varm[name]  # of an earlier fit
    _delete_intervals(adata, keys)
    adata.varm[keys.varm], adata.uns[keys.uns] = loadings, facts


def _write_weights(adata: "AnnData", keys: _Keys, W: np.ndarray, model: FactorModel) -> None:
    """Write W and topic shares."""
    topics = to_topics(W, model.components_).mixtures
    with _written():
        adata.obsm[keys.obsm], adata.obsm[f"{keys.obsm}_topics"] = W, topics


def _written() -> AbstractContextManager[None]:
    """A context to write in; `_check_writable` has already warned about a view, as anndata does."""
    anndata = import_optional("anndata", "anndata")
    return warnings.catch_warnings(action="ignore", category=anndata.ImplicitModificationWarning)


def _write_intervals(fitted: "_Fitted", draws: FactorDraws, level: float, facts: dict[str, Any]) -> None:
    """Write intervals of topic shares, if W was kept, and of gene shares."""
    adata, keys = fitted.counts.adata, fitted.keys
    with _written():
        _delete_intervals(adata, keys)
        for end, values in zip(("low", "high"), draws.feature_shares.interval(level), strict=True):
            adata.varm[f"{keys.varm}_shares_{end}"] = fitted.of_genes(values.T, np.nan)
        if draws.W is not None:
            for end, values in zip(("low", "high"), draws.component_shares.interval(level), strict=True):
                adata.obsm[f"{keys.obsm}_topics_{end}"] = values
        adata.uns[f"{keys.uns}_intervals"] = {"level": level, "n_draws": len(draws), **facts}


def _delete_intervals(adata: "AnnData", keys: _Keys) -> None:
    """Delete the intervals of earlier fits and draws."""
    for end in ("low", "high"):
        for store, name in ((adata.varm, f"{keys.varm}_shares_{end}"), (adata.obsm, f"{keys.obsm}_topics_{end}")):
            if name in store:
                del store[name]
    adata.uns.pop(f"{keys.uns}_intervals", None)


def _parameters(model: FactorModel) -> dict[str, Any]:
    """Parameters of the estimator that anndata can write to a file."""
    values = {name: _storable(to_json(value)) for name, value in model.get_params(deep=False).items()}
    return {name: value for name, value in values.items() if value is not None}


def _storable(value: Any) -> Any:
    """A number, a string, or a prior as an array of shape (2,) or (2, n_components); None for other values.

    These are priors of single entries, priors with names, and invalid ones, for which the fit will raise an error.
    """
    if isinstance(value, list):
        try:
            A = np.array(np.broadcast_arrays(*value), dtype=np.float64)
        except (TypeError, ValueError):
            return None
        return A if A.ndim <= 2 else None
    return value if isinstance(value, bool | int | float | str) else None
