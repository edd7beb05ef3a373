"""The mathematics: priors, updates, objectives, starts and posteriors. No loop over iterations."""
