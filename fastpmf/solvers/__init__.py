"""Floor 2: solvers, the only place with an iteration loop."""

from collections.abc import Callable

from fastpmf.solvers.base import FitInterrupted, Problem, Record, Run, Solution, Solver, State, Status
from fastpmf.solvers.coordinate import Coordinate
from fastpmf.solvers.em import JointEM
from fastpmf.solvers.extrapolated import Extrapolated
from fastpmf.solvers.multiplicative import Multiplicative

SOLVERS: dict[str, Callable[[], Solver]] = {"cd": Coordinate, "em": JointEM, "mu": Multiplicative}

__all__ = [
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
]
