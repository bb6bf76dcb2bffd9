"""What is looked at before a volume may be trained on, and what follows."""

from typing import Literal

from pydantic import Field, field_validator

from slimdiff.config.base import Count, Fraction, Positive, Section

Doubt = Literal[
    "thick_slices",
    "lesion_outside_brain",
    "flip_suspected",
    "duplicate_image",
    "intensity_overflow",
    "orientation_unknown",
]
"""Flags that somebody who has looked can wave through. All others mean that a file cannot be used at all."""


SHOWN_ONLY: dict[Doubt, Literal["all"]] = {"flip_suspected": "all"}
"""Accepted unless somebody says otherwise."""


class QualityConfig(Section):
    """Checks of the source's volumes before anything is made of them (docs/data.md)."""

    policy: Literal["error", "exclude"] = "error"
    """`error`: a flagged participant stops the run, all of them named; `exclude`: flagged ones are left out, with the
    reason in participants.tsv."""
    max_excluded: Count = 5
    """`exclude`: more participants than this left out by flags stop the run."""
    accept: dict[Doubt, Literal["all"] | tuple[str, ...]] = Field(default_factory=SHOWN_ONLY.copy)
    """flag: participant_ids, or `all`: these flags are only shown. `flip_suspected` is, unless it is given as []."""
    max_spacing_mm: Positive = 3.0
    """`thick_slices`: voxels longer than this along some axis, in mm. Where `data.two_dimensional` is `include`,
    it is only shown."""
    max_lesion_outside: Fraction = 0.5
    """`lesion_outside_brain`: a larger share of the lesion outside the brain mask, or where there is none the head."""

    @field_validator("accept")
    @classmethod
    def _with_defaults(cls, accept):
        # Who accepts one flag more has said nothing about the others.
        return {**SHOWN_ONLY, **accept}

    def accepts(self, flag: str, participant_id: str) -> bool:
        """Whether somebody has looked and waved this participant's flag through."""
        names = self.accept.get(flag, ())
        return names == "all" or participant_id in names
