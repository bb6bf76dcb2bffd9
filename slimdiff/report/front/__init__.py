"""The front page of the report: whether the samples can be trusted, and what for."""
