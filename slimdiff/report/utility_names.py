"""How the rows of utility.tsv are shown: their names hold the score, what was trained on, and the share of subjects."""

import re

_SCORES = {
    "dice": "Dice",
    "sensitivity": "Sensitivity",
    "false_positives": "False positives a slice",
    "false_positive_share": "Lesion-free slices with a false positive",
}
_CONDITIONS = {
    "real": "real",
    "real_synthetic": "real + synthetic",
    "gain": "gain by synthetic",
    "synthetic": "trained on synthetic",
    "trts": "tested on synthetic",
}
_NAME = re.compile(
    rf"utility_({'|'.join(sorted(_SCORES, key=len, reverse=True))})_"
    r"(?:(real|real_synthetic|gain)_(\d+)|(synthetic|trts))"
)
_HEADLINES = ("gain", "synthetic", "trts")


def parse(metric: str) -> tuple[str, bool, tuple[int, int, int]] | None:
    """Label, whether it is a headline, and the place among its like (score, then condition, then share); None for
    another metric."""
    match = _NAME.fullmatch(metric)
    if match is None:
        return None
    score, condition = match[1], match[2] or match[4]
    percent = int(match[3] or 0)
    label = f"{_SCORES[score]}, {_CONDITIONS[condition]}" + (f", {percent} %" if percent else "")
    place = (list(_SCORES).index(score), list(_CONDITIONS).index(condition), percent)
    return label, score == "dice" and condition in _HEADLINES, place
