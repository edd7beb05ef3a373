"""What a fitted `PoissonNMF` holds, and how it goes to a file and comes back."""

import math
import os
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastpmf.core.factors import FLOATS
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
from fastpmf.fitting.online import Online
from fastpmf.solvers import Solution, Status
from fastpmf.utils.files import READ_ERRORS
from fastpmf.utils.validation import check_factor, check_shape_dtype


class FittedNMF(FactorModel):
    """The fitted attributes of `PoissonNMF`, and its model file."""

    # What a model has that nothing was told of
    prior_W_: Any = None
    prior_H_: Any = None
    column_exposure_: np.ndarray | None = None
    background_: np.ndarray | None = None
    validation_: np.ndarray | None = None
    mean_W_: np.ndarray | None = None
    _online: Online | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to one `.npz` file without pickle; it replaces `path` whole or not at all.

        A `random_state` or `callback` that is an object is not kept, and comes back as None.
        """
        check_is_fitted(self)
        arrays = {"components": self.components_, "trace": self.trace_, "restarts": self.restarts_}
        if self._online is not None:
            arrays |= self._online.arrays()
        for name in ("column_exposure", "background", "validation", "mean_W"):
            if (known := getattr(self, f"{name}_")) is not None:
                arrays[name] = known
        if hasattr(self, "feature_names_in_"):
            arrays["feature_names_in"] = self.feature_names_in_.astype(str)
        facts = {
            "n_iter": self.n_iter_,
            "objective": self.objective_,
            "kkt_residual": self.kkt_residual_,
            "status": self.status_.name,
            "priors": [plain(self.prior_W_), plain(self.prior_H_)],
        }
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
            # JSON has lists for tuples, and of the parameters only priors are either
            parameters = {name: tuple(x) if isinstance(x, list) else x for name, x in parameters.items()}
            model = cls(**parameters)
            H, trace = arrays["components"], checked_trace(arrays)
            if H.ndim != 2 or H.dtype not in FLOATS or not H.size:
                raise ValueError(f"components of shape {H.shape} and {H.dtype}")
            check_factor(H, H.shape, "components")
            names, status = checked_names(arrays, H.shape[1]), Status[facts["status"]]
            restarts = arrays.get("restarts", np.array([float(facts["objective"])]))
            if status is not Status.ONLINE or restarts.size:  # partial_fit has none
                checked_vector(restarts, "restarts")
            model._keep_fitted(H, facts["objective"], facts["kkt_residual"], facts["n_iter"], status, trace, restarts)
            if "online_schedule" in arrays:
                model._online = Online.recall(arrays, H.shape[1], len(H))
            model.n_features_in_ = H.shape[1]
            model.validation_ = checked_validation(arrays)
            model.prior_W_, model.prior_H_ = (
                None if prior is None else tuple(prior) for prior in facts.get("priors", (None, None))
            )
            for name in ("column_exposure", "background"):
                known = arrays.get(name)
                if known is not None and known.dtype != float:
                    raise ValueError(f"{name} of {known.dtype}")
                setattr(model, f"{name}_", known)
            if (mean_W := arrays.get("mean_W")) is not None:
                model.mean_W_ = check_factor(
                    check_shape_dtype(mean_W, (len(H),), np.dtype(float), "mean_W"), (len(H),), "mean_W"
                )
        except READ_ERRORS as error:
            raise no_model(path, error) from None
        if names is not None:
            model.feature_names_in_ = names
        return model

    def _average_row(self) -> np.ndarray | None:
        return self.mean_W_

    def _keep(self, solution: Solution) -> None:
        self._keep_fitted(
            solution.H,
            solution.objective,
            solution.kkt_residual,
            solution.n_iter,
            solution.status,
            solution.trace,
            solution.restarts,
        )

    def _keep_fitted(
        self, H: np.ndarray, objective: float, kkt_residual: float, n_iter: int, status: Status, trace: np.ndarray,
        restarts: np.ndarray,
    ) -> None:  # fmt: skip
        self.components_ = H
        self.n_components_ = H.shape[0]
        self.objective_ = objective
        self.reconstruction_err_ = math.sqrt(2.0 * max(objective, 0.0))  # rounding may leave D a hair below 0
        self.kkt_residual_ = kkt_residual
        self.n_iter_ = n_iter
        self.status_ = status
        self.trace_ = trace
        self.restarts_ = restarts
