"""Evaluation of samples: features, distances between sets of features, intervals and tests."""
