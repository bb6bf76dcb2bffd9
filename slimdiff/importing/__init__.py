"""Conversion of checkpoints of the published code (PyPI slim-diff 1.0.0)."""
