"""Metrics as functions of arrays, one metric or one step of a metric per module."""
