"""Floor 1: the mathematics. Arrays in, arrays out, no loop over iterations."""
