"""Real and synthetic slices in the forms that segmentation tools read."""
