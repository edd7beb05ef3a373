"""Floor 2: solvers, the only place with an iteration loop."""

from collections.abc import Callable

from fastpmf.solvers.base import FitInterrupted, Problem, Record, Run, Solution, Solver, State, Status
from fastpmf.solvers.coordinate import Coordinate
from fastpmf.solvers.em import JointEM
from fastpmf.solvers.extrapolated import Extrapolated
from fastpmf.solvers.multiplicative import Multiplicative

SOLVERS: dict[str, Callable[[], Solver]] = {"cd": Coordinate, "em": JointEM, "mu": Multiplicative}
ACCELERATIONS = ("auto", "extrapolation", "relaxation")


def solver_of(solver: str, acceleration: str | None) -> Callable[[], Solver]:
    """What makes the solver of these names; "auto" is what measured best.

    Raises
    ------
    ValueError
        An unknown name, or two that don't go together.
    """
    if solver not in ("auto", *SOLVERS):
        raise ValueError(f"solver must be one of 'auto', {', '.join(map(repr, SOLVERS))}, got {solver!r}")
    if acceleration not in (*ACCELERATIONS, None):
        raise ValueError(
            f"acceleration must be one of {', '.join(map(repr, ACCELERATIONS))} or None, got {acceleration!r}"
        )
    plain = SOLVERS["cd" if solver == "auto" else solver]
    if acceleration == "relaxation":
        if plain is not Multiplicative:
            raise ValueError(f"acceleration='relaxation' is for solver='mu', got solver={solver!r}")
        return lambda: Multiplicative(relaxed=True)
    if acceleration == "extrapolation" or (acceleration == "auto" and plain is Coordinate):
        return lambda: Extrapolated(plain())
    return plain


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
