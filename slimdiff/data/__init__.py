"""From volumes on disk to a slice store, z-bins, priors and folds. Nothing here imports torch models."""
