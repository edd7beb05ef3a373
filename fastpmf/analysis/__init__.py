"""Analysis of fitted factors: topics, features, rankings, differential expression, number of components."""
