"""docs/metrics.md names every metric of the registry, under the headings of the report."""

import re
from pathlib import Path

from slimdiff.evaluation.registry import AXES, CONTRAST_FEATURES, METRICS, SHAPE_FEATURES, UTILITY_SCORES

DOCS = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


def missing_from(text: str, names) -> list[str]:
    """Names without a term in backticks; `{feature}`, `{score}` and `{percent}` are placeholders for other terms."""
    terms = set(re.findall(r"`([^`\n]+)`", text))
    patterns = {
        "{feature}": "|".join(terms & {*SHAPE_FEATURES, *CONTRAST_FEATURES}),
        "{score}": "|".join(terms & UTILITY_SCORES.keys()),
        "{percent}": "[0-9]+",
    }
    known = []
    for term in terms:
        pattern = re.escape(term).replace(r"\{", "{").replace(r"\}", "}")
        for placeholder, values in patterns.items():
            pattern = pattern.replace(placeholder, f"(?:{values})")
        known.append(re.compile(pattern))
    return [name for name in names if not any(pattern.fullmatch(name) for pattern in known)]


def test_every_metric_is_named():
    assert missing_from(DOCS, METRICS) == []


def test_a_missing_metric_is_detected():
    assert missing_from(DOCS, ["kid", "kid_unheard_of", "mmd_mf_w1_colour", "utility_accuracy_trts"]) == [
        "kid_unheard_of",
        "mmd_mf_w1_colour",
        "utility_accuracy_trts",
    ]
    for term in ("memorisation_w1", "area", "dice", "utility_{score}_trts"):
        assert missing_from(DOCS.replace(f"`{term}`", ""), METRICS), term


def test_headings_are_those_of_the_report():
    headings = re.findall(r"^### (.+)$", DOCS, re.M)
    assert [heading for heading in headings if heading in AXES.values()] == list(AXES.values())
