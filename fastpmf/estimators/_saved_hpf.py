"""How a fitted `HPF` goes to a file and comes back."""

import dataclasses
import os
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastpmf.estimators._persistence import (
    checked_names,
    checked_trace,
    checked_validation,
    checked_vector,
    no_model,
    plain,
    read_model,
    write_model,
)
from fastpmf.estimators.base import FactorModel
from fastpmf.fitting.online import Schedule
from fastpmf.model.gamma import GammaPosterior
from fastpmf.model.hierarchy import GammaFactor, GammaPrior
from fastpmf.solvers import Status
from fastpmf.utils.files import READ_ERRORS


class FittedHPF(FactorModel):
    """The model file of `HPF`."""

    n_components: int
    _columns: GammaFactor
    _row_prior: GammaPrior
    _column_prior: GammaPrior
    _schedule: Schedule | None = None

    def _average_row(self) -> np.ndarray | None:
        posterior = getattr(self, "W_posterior_", None)  # partial_fit keeps none
        return None if posterior is None else posterior.mean.mean(axis=0, dtype=np.float64)

    def _keep_columns(self, columns: GammaFactor, priors: tuple[GammaPrior, GammaPrior], n_components: int) -> None:
        """Sets what is known of H."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model, all posteriors included, to one `.npz` file; it replaces `path` whole or not at all.

        A `random_state` or `callback` that is an object is not kept, and comes back as None.
        """
        check_is_fitted(self)
        columns = self._columns
        arrays = {part.name: getattr(columns, part.name) for part in dataclasses.fields(columns)}
        del arrays["activity_shape"]
        facts: dict[str, Any] = {
            "activity_shape": plain(columns.activity_shape),
            "priors": [prior.to_numbers() for prior in (self._row_prior, self._column_prior)],
            "n_components": len(self.components_),
            "n_iter": self.n_iter_,
            "status": self.status_.name,
            "schedule": None if self._schedule is None else list(self._schedule),
        }
        if hasattr(self, "W_posterior_"):  # partial_fit keeps none
            arrays |= {"W_shape": self.W_posterior_.shape, "W_rate": self.W_posterior_.rate}
            arrays |= {"trace": self.trace_, "restarts": self.restarts_}
            if self.activity_ is not None:
                arrays |= {"row_activity_shape": self.activity_.shape, "row_activity_rate": self.activity_.rate}
            if self.validation_ is not None:
                arrays["validation"] = self.validation_
            if self.row_names_ is not None:
                arrays["row_names"] = self.row_names_.astype(str)
            facts |= {"elbo": plain(self.elbo_), "residual": plain(self.residual_)}
        if hasattr(self, "feature_names_in_"):
            arrays["feature_names_in"] = self.feature_names_in_.astype(str)
        write_model(path, type(self).__name__, self.get_params(deep=False), arrays, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read back what `save` wrote.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            Not a whole model file of this class.
        """
        parameters, arrays, facts = read_model(path, cls.__name__)
        try:
            model = cls(**parameters)
            # Parameters may have been set anew since the fit
            k = int(facts.get("n_components", model.n_components))
            priors = tuple(GammaPrior.from_numbers(prior, k) for prior in facts["priors"])
            if priors[0].hierarchical is not priors[1].hierarchical:
                raise ValueError("priors of which one has a hierarchy")
            columns = GammaFactor.recall(arrays | {"activity_shape": facts["activity_shape"]}, k)
            names = checked_names(arrays, len(columns.mean))
            model._keep_columns(columns, (priors[0], priors[1]), k)
            model.n_iter_, model.status_ = int(facts["n_iter"]), Status[facts["status"]]
            if (schedule := facts.get("schedule")) is not None:
                model._schedule = Schedule.recall(schedule)
            model.n_features_in_ = len(columns.mean)
            if "W_shape" in arrays:
                model.W_posterior_ = _posterior(arrays["W_shape"], arrays["W_rate"], (-1, k))
                n, activity = len(model.W_posterior_.shape), None
                if priors[0].hierarchical:
                    activity = _posterior(arrays["row_activity_shape"], arrays["row_activity_rate"], (n,))
                model.activity_, model.trace_ = activity, checked_trace(arrays)
                model.elbo_, model.residual_ = float(facts["elbo"]), float(facts["residual"])
                model.objective_, model.restarts_ = -model.elbo_, checked_vector(arrays["restarts"], "restarts")
                model.validation_ = checked_validation(arrays)
                model.row_names_ = checked_names(arrays, n, "row_names")
        except READ_ERRORS as error:
            raise no_model(path, error) from None
        if names is not None:
            model.feature_names_in_ = names
        return model


def _posterior(shape: np.ndarray, rate: np.ndarray, wanted: tuple[int, ...]) -> GammaPosterior:
    if shape.shape != rate.shape or shape.ndim != len(wanted) or shape.shape[-1] != wanted[-1]:
        raise ValueError(f"a posterior of shapes {shape.shape} and {rate.shape}")
    if not all(A.dtype.kind == "f" and np.isfinite(A).all() and (A > 0).all() for A in (shape, rate)):
        raise ValueError("a posterior that is not finite and > 0")
    return GammaPosterior(shape, rate)
