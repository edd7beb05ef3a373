"""Floor 2: solvers, the only place with an iteration loop."""

from fastpmf.solvers.base import FitInterrupted, Problem, Record, Solution, Solver, State, Status, solve
from fastpmf.solvers.multiplicative import Multiplicative

SOLVERS: dict[str, type[Solver]] = {"mu": Multiplicative}

__all__ = [
    "SOLVERS",
    "FitInterrupted",
    "Multiplicative",
    "Problem",
    "Record",
    "Solution",
    "Solver",
    "State",
    "Status",
    "solve",
]
