"""Shared by counts, models and solvers: padded factors, sides, and the subproblem of one factor."""
