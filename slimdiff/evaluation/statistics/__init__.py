"""Intervals over subjects, and tests over folds."""
