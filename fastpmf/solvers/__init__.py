"""Iterative solvers, one file for each algorithm; `run.py` has the loop, `component_search.py` improves starts."""

from fastpmf.solvers.base import FactorState, FitInterrupted, Problem, Record, Solution, Solver, State, Status
from fastpmf.solvers.coordinate_descent import CoordinateDescent
from fastpmf.solvers.em import JointEM
from fastpmf.solvers.extrapolated import Extrapolated
from fastpmf.solvers.mean_field import MeanField
from fastpmf.solvers.multiplicative import Multiplicative
from fastpmf.solvers.run import Run, successive_halving
from fastpmf.utils.validation import check_option

SOLVERS = ("cd", "em", "mu")
ACCELERATIONS = ("auto", "extrapolation", "relaxation")


def make_solver(
    solver: str, acceleration: str | None, *, inner_steps: int = 1, row_access_only: bool = False
) -> Solver:
    """The solver of these names; "auto" is the fastest in our measurements, which depends on the access to the counts.

    Raises
    ------
    ValueError
        If a name is unknown, or two arguments contradict each other.
    """
    check_option(solver, ("auto", *SOLVERS), "solver")
    check_option(acceleration, ACCELERATIONS, "acceleration", none=True)
    if acceleration == "relaxation" and solver != "mu":
        raise ValueError(f"acceleration='relaxation' is for solver='mu', got solver={solver!r}")
    if solver == "em" and inner_steps > 1:
        raise ValueError(
            f"inner_steps must be 1 with solver='em', which updates both factors at once, got {inner_steps}"
        )
    plain: Solver
    if solver == "em":
        plain = JointEM()
    elif solver == "mu":
        plain = Multiplicative(inner_steps=inner_steps, relaxed=acceleration == "relaxation")
    else:
        # With multiplicative steps on H throughout, fewer of them are needed before coordinate descent on W
        plain = CoordinateDescent(warm_up=4 if row_access_only else 10, inner_steps=inner_steps)
    # Extrapolation needs the objective, which is an additional pass unless coordinate descent computes it
    by_default = acceleration == "auto" and solver in ("auto", "cd") and not row_access_only
    return Extrapolated(plain) if by_default or acceleration == "extrapolation" else plain


__all__ = [
    "ACCELERATIONS",
    "SOLVERS",
    "CoordinateDescent",
    "Extrapolated",
    "FactorState",
    "FitInterrupted",
    "JointEM",
    "MeanField",
    "Multiplicative",
    "Problem",
    "Record",
    "Run",
    "Solution",
    "Solver",
    "State",
    "Status",
    "make_solver",
    "successive_halving",
]
