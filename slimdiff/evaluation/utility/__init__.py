"""Utility for segmentation: whether samples help to train a segmenter."""
