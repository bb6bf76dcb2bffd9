"""When a training stops early, and which weights it keeps: decided by the rows of validation.tsv."""

import math

from slimdiff.config.training import ValidationConfig


def lowest_kid(rows: list[dict], settings: ValidationConfig) -> dict | None:
    """The row with the lowest KID among those with R not below `lowest_ratio`; None if there is none."""
    fit = [row for row in rows if math.isfinite(row.get("kid", math.nan))]
    fit = [row for row in fit if not row["memorisation_ratio"] < settings.lowest_ratio]
    return min(fit, key=lambda row: row["kid"], default=None)


def reason_to_stop(rows: list[dict], settings: ValidationConfig) -> str | None:
    """The reason to stop early after these rounds, or None.

    Training stops after `patience` consecutive rounds without a lower KID, or after two consecutive rounds in which R
    of every moving average is below `lowest_ratio`.
    """
    steps = list(dict.fromkeys(row["step"] for row in rows))
    rounds = [[row for row in rows if row["step"] == step] for step in steps]
    if settings.lowest_ratio and len(rounds) >= 2:
        ratios = [[row.get("memorisation_ratio", math.nan) for row in of_round] for of_round in rounds[-2:]]
        if all(ratio < settings.lowest_ratio for of_round in ratios for ratio in of_round):
            listed = ", ".join(f"{max(of_round):.3g}" for of_round in ratios)
            return f"memorisation ratio {listed} in two consecutive rounds, below {settings.lowest_ratio:g}"
    if settings.patience and len(rounds) > settings.patience:
        best = [lowest_kid(of_round, settings) for of_round in rounds]
        kids = [math.inf if row is None else row["kid"] for row in best]
        earlier, late = min(kids[: -settings.patience]), min(kids[-settings.patience :])
        if math.isfinite(earlier) and not late < earlier:
            return f"no KID below {earlier:.4g} in {settings.patience} consecutive rounds"
    return None
