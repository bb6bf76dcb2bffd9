"""From volumes on disk to the slice store, z-bins, priors and folds. No module here imports the models."""
