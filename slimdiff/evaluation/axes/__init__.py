"""The axes of an evaluation: image, mask, pair, control, memorisation. Each adds its metrics to one fold's table."""
