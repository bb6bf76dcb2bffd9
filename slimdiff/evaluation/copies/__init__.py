"""Search for copies of training slices that were altered, mixed, or that are copies of a lesion alone."""
