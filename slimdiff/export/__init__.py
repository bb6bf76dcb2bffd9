"""Real and synthetic slices in the formats that segmentation tools read."""
