"""The facts of a fitted model: how its fit went, and the size and top features of each component."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastpmf.analysis.features import TopFeatures
from fastpmf.core.factors import component_sums
from fastpmf.utils.messages import listed
from fastpmf.utils.tables import Table, data_frame, shown_as_table, top_weighted


@shown_as_table
@dataclass(frozen=True, eq=False)
class Summary:
    """A summary of a fitted model; `repr` and notebooks show it as a table.

    Attributes
    ----------
    title : str
        The model and its size.
    facts : dict of str to str
        Status, iterations, objective and residual of the fit, as text.
    shares : ndarray of shape (k,), float64, or None
        Share of each component in the expected counts of the fitted rows, without exposures and background; None if the
        mean of W is not known, as after `fastpmf.dask`.
    top : TopFeatures
        The top features of each component.
    """

    title: str
    facts: dict[str, str]
    shares: np.ndarray | None
    top: TopFeatures

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each component, and columns share (if it is known) and features.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        columns: dict[str, Any] = {} if self.shares is None else {"share": self.shares}
        columns["features"] = [", ".join(filter(None, names)) for names in self.top.names]
        return data_frame(columns, self.top.components, "component")

    def _table(self) -> Table:
        k, n = self.top.indices.shape
        columns: dict[str, Any] = {"component": self.top.components.tolist()}
        if self.shares is not None:
            columns["share of counts"] = [f"{share:.1%}" for share in self.shares]
        columns["top features"] = top_weighted(self.top.names, self.top.scores, self.top.indices >= 0, n)
        return Table(self.title, columns, self.facts, n_rows=k)


def summary_of(model: Any, top: TopFeatures) -> Summary:
    """The summary of a fitted estimator with these top features."""
    mean = model.mean_W_
    return Summary(
        title_of(model), fit_facts(model), None if mean is None else component_shares(mean, model.components_), top
    )


def title_of(model: Any) -> str:
    """The class and the size of a fitted estimator."""
    k, p = model.components_.shape
    return f"{type(model).__name__}: {k} component{'s' * (k > 1)} of {p:,} features, {model.components_.dtype}"


def component_shares(W: np.ndarray, H: np.ndarray) -> np.ndarray:
    """Share of each component in the sum of W H, (k,), float64; W may also be the mean of its rows, (k,)."""
    w_sum, h_sum = component_sums(np.atleast_2d(W), H)
    mass = w_sum * h_sum
    return mass / (mass.sum() or 1.0)


def fit_facts(model: Any) -> dict[str, str]:
    """How the fit of an estimator went, as text; facts that are not known are left out."""
    facts = {"status": str(model.status_), "iterations": f"{model.n_iter_:,}"}
    seconds = getattr(model, "trace_", {"seconds": ()})["seconds"]
    if len(seconds):
        facts["seconds"] = f"{seconds[-1]:.3g}"
    if hasattr(model, "elbo_"):
        facts["evidence lower bound"] = f"{model.elbo_:.8g} nats"
        facts["residual"] = f"{model.residual_:.2g} of the counts moved by the last updates (tol {model.tol:.2g})"
    elif np.isfinite(getattr(model, "objective_", np.nan)):
        facts["objective"] = f"{model.objective_:.8g} nats"
        facts["kkt_residual"] = f"{model.kkt_residual_:.2g} nats per count (tol {model.tol:.2g})"
    if (groups := getattr(model, "group_names_", None)) is not None:
        facts["groups"] = f"{len(groups):,} ({listed(groups.tolist())})"
    if len(restarts := getattr(model, "restarts_", ())) > 1:
        facts["starts"] = f"{len(restarts)}, objectives from {np.min(restarts):.8g} to {np.max(restarts):.8g} nats"
    if (curve := getattr(model, "validation_", None)) is not None and len(curve):
        facts["held-out counts"] = f"{curve['log_likelihood'].max():.5g} nats per count at best"
    return facts
