"""Checkpoints of the published code (PyPI slim-diff 1.0.0), converted to ours."""
