"""How samples are judged: features, distances between sets of them, and the statistics around the numbers."""
