"""One participant's volumes: reading, the study's grid, brain extraction, bias field, registration, intensities."""
