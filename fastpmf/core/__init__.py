"""What counts, models and solvers share: padded factors, sides, and the subproblem of one factor."""
