"""What is done with fitted factors: topics, top features, rankings, tests, selection."""
