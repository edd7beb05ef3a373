"""Fits of AnnData objects."""

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from fastpmf.anndata._arguments import (
    check_adata,
    chosen_genes,
    fit_arguments,
    matrix,
    read,
    source_of,
    warn_unless_counts,
)
from fastpmf.anndata._results import check_target, keys_of, loading_places, parameters_of, store
from fastpmf.counts import Dataset, as_counts
from fastpmf.estimators import HPF, PoissonNMF

if TYPE_CHECKING:
    from anndata import AnnData


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
        Layer that holds the counts; "raw" is `adata.raw`, unless a layer has this name. By default `adata.X`. With
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
        Parameters of `PoissonNMF`, such as `random_state`, `prior_W="auto"`, `n_init`, `max_iter`, `n_threads`.

    Returns
    -------
    PoissonNMF
        The fitted model. Its features are the fitted genes, by name; `transform` of this module applies it to new
        cells. These results are written to `adata`; pass `adata.copy()` to leave it unchanged:

        - `.obsm[key_added or "X_pmf"]`, W of shape (n_obs, n_components);
        - `.obsm["X_pmf_topics"]`, or with `key_added` that name and "_topics", P(topic | cell) of the same shape: the
          shares of each cell's expected counts, which sum to 1, or are 0 for a cell without any, as
          `model.to_topics(W).mixtures`;
        - `.varm[key_added or "PMF"]`, H transposed, of shape (n_vars, n_components), 0 for genes that were not fitted.
          With `.raw` its rows are aligned by name; genes that only `.raw` has are in the model but not in `.varm`;
        - `.uns[key_added or "pmf"]`, a dictionary: "params", "objective" (nats), "kkt_residual" (nats per count),
          "n_iter", "status", "trace" and "version".

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, or if `adata` is a view of a backed object, which can't hold
        results.
    MemoryError
        If the estimated memory exceeds this process's limit.
    FitInterrupted
        On Ctrl-C. As with any error after the fit, the attribute `model` of the exception is the fitted model.

    Warns
    -----
    UserWarning
        If counts are not whole numbers, or gene names are not unique.
    ImplicitModificationWarning
        If `adata` is a view: it becomes a copy, which holds the results, as in anndata. Its parent stays as it is.

    See Also
    --------
    fastpmf.anndata.transform : W of new cells.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 30)).astype("float32"))
    >>> model = fastpmf.anndata.poisson_nmf(adata, 3, random_state=0)
    >>> adata.obsm["X_pmf"].shape, adata.obsm["X_pmf_topics"].shape, adata.varm["PMF"].shape, adata.uns["pmf"]["status"]
    ((50, 3), (50, 3), (30, 3), 'CONVERGED')
    """
    model = _estimator(PoissonNMF, "poisson_nmf", n_components, options)
    given = {
        "W": W, "H": H, "fixed_W": fixed_W, "fixed_H": fixed_H, "obs_exposure": obs_exposure,
        "var_exposure": var_exposure, "background": background, "mask": mask, "sample_weight": sample_weight,
        "validation": validation, "checkpoint": checkpoint, "resume": resume,
    }  # fmt: skip
    _factorise(adata, model, layer, mask_var, given, key_added)
    return model


def hpf(
    adata: "AnnData",
    n_components: int,
    *,
    layer: str | None = None,
    mask_var: Any = None,
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
    adata, n_components, layer, mask_var, mask, validation, checkpoint, resume
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

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 30)).astype("float32"))
    >>> model = fastpmf.anndata.hpf(adata, 3, random_state=0)
    >>> adata.obsm["X_hpf"].shape
    (50, 3)
    """
    model = _estimator(HPF, "hpf", n_components, options)
    given = {"mask": mask, "validation": validation, "checkpoint": checkpoint, "resume": resume}
    _factorise(adata, model, layer, mask_var, given, key_added)
    return model


def _estimator(kind: Any, function: str, n_components: int, options: dict[str, Any]) -> Any:
    """The estimator with these options; an unknown option raises an error that names this module's function."""
    known = inspect.signature(kind).parameters
    for name in options:
        if name not in known:
            raise TypeError(f"fastpmf.anndata.{function}() got an unexpected keyword argument {name!r}")
    return kind(n_components, **options)


def _factorise(
    adata: "AnnData", model: PoissonNMF | HPF, layer: str | None, mask_var: Any, given: dict[str, Any],
    key_added: str | None,
) -> None:  # fmt: skip
    """Fit the model and write the results to adata."""
    check_adata(adata)
    keys = keys_of(model, key_added)
    named = {"layer": layer, "mask_var": mask_var} | given
    parameters = parameters_of(model) | {name: value for name, value in named.items() if isinstance(value, str)}
    source = source_of(adata, layer)
    chosen = np.ones(len(source.var), bool) if mask_var is None else chosen_genes(mask_var, source)
    place = loading_places(adata, source, chosen)
    if (mask := given["mask"]) is not None:
        mask = matrix(mask, adata, source, "mask")
    fit_parameters = fit_arguments(given | {"mask": mask}, adata, source, chosen)
    check_target(adata)
    counts = read(source, mask)
    if not chosen.all():
        counts = as_counts(counts.to_scipy()[:, chosen], n_threads=model.n_threads)
    warn_unless_counts(counts, source.where, adata)
    try:
        # scikit-learn may be configured to return DataFrames
        W = np.asarray(model.fit_transform(Dataset(counts, column_names=source.names[chosen]), **fit_parameters))
        store(adata, model, keys, W, place, parameters)
    except BaseException as error:
        if hasattr(model, "components_"):
            error.model = model  # type: ignore[attr-defined]
            error.add_note("The attribute `model` of this exception is the fitted model.")
        raise
