"""From data and options to a solution: problems, fits, transforms, online updates, checkpoints."""
