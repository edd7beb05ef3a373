"""Floor 2: solvers, the only place with an iteration loop."""

from collections.abc import Callable

from fastpmf.solvers.base import FitInterrupted, Problem, Record, Solution, Solver, State, Status
from fastpmf.solvers.coordinate_descent import Coordinate
from fastpmf.solvers.em import JointEM
from fastpmf.solvers.extrapolated import Extrapolated
from fastpmf.solvers.multiplicative import Multiplicative
from fastpmf.solvers.run import Run
from fastpmf.utils.validation import check_option

SOLVERS = ("cd", "em", "mu")
ACCELERATIONS = ("auto", "extrapolation", "relaxation")


def solver_of(
    solver: str, acceleration: str | None, *, inner_steps: int = 1, row_access_only: bool = False
) -> Callable[[], Solver]:
    """What makes the solver of these names; "auto" is what measured best, and for one-sided counts too.

    Raises
    ------
    ValueError
        An unknown name, or two that don't go together.
    """
    check_option(solver, ("auto", *SOLVERS), "solver")
    check_option(acceleration, ACCELERATIONS, "acceleration", none=True)
    if acceleration == "relaxation" and solver != "mu":
        raise ValueError(f"acceleration='relaxation' is for solver='mu', got solver={solver!r}")
    if solver == "em" and inner_steps > 1:
        raise ValueError(
            f"inner_steps must be 1 with solver='em', which updates both factors at once, got {inner_steps}"
        )

    def plain() -> Solver:
        if solver == "em":
            return JointEM()
        if solver == "mu":
            return Multiplicative(inner_steps=inner_steps, relaxed=acceleration == "relaxation")
        # Multiplicative steps on H don't hurry, so fewer go before the rest
        return Coordinate(warm_up=4 if row_access_only else 10, inner_steps=inner_steps)

    # What extrapolates looks at the objective, which is one more pass where coordinate descent can't tell it
    leaps = acceleration == "auto" and solver in ("auto", "cd") and not row_access_only
    return (lambda: Extrapolated(plain())) if leaps or acceleration == "extrapolation" else plain


__all__ = [
    "ACCELERATIONS",
    "SOLVERS",
    "Coordinate",
    "Extrapolated",
    "FitInterrupted",
    "JointEM",
    "Multiplicative",
    "Problem",
    "Record",
    "Run",
    "Solution",
    "Solver",
    "State",
    "Status",
    "solver_of",
]
