"""What autoguidance does to KID and to memorisation: python benchmarks/autoguidance.py [--config config/demo.yaml]

Draws the same noise with the network alone and guided by its own earlier snapshot (Karras et al. 2024) at several
strengths, and prints both sides of the bargain next to each other as TSV. The study's training has to keep the snapshot
(`training.snapshots`; the demo's does): snakemake --cores all trained.
"""

SCALES = (1.0, 1.25, 1.5, 2.0, 3.0)
COLUMNS = ("guidance", "interval", "guide", "seed", "n", "evaluations", "kid", "r_features", "r_pixels")
COLUMNS += ("suspects_features", "suspects_pixels", "mmd_mf", "mmd_pl", "class1", "class0")


def main() -> None:
    """Draw, judge and print."""
    parser = cell_parser(__doc__)
