"""Whether samples help a segmenter."""
