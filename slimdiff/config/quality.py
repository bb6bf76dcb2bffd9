"""What is checked before a volume is used, and what follows from it."""

from typing import Literal

from pydantic import Field, field_validator

from slimdiff.config.base import Count, Fraction, Positive, Section

Doubt = Literal[
    "thick_slices",
    "lesion_outside_brain",
    "implausible_lesion",
    "field_of_view",
    "forms_differ",
    "background_within",
    "image_quality",
    "flip_suspected",
    "duplicate_image",
    "intensity_overflow",
    "orientation_unknown",
]
"""Flags that a person who has looked at the volume can accept. With any other flag a file cannot be used."""


SHOWN_ONLY: dict[Doubt, Literal["all"]] = {
    "flip_suspected": "all",
    "field_of_view": "all",
    "forms_differ": "all",
    "background_within": "all",
    "image_quality": "all",
}
"""Flags that are accepted by default."""


class QualityConfig(Section):
    """Checks of the source's volumes before they are preprocessed (docs/data.md)."""

    policy: Literal["error", "exclude"] = "error"
    """`error`: flagged participants stop the run, which names all of them; `exclude`: flagged participants are left
    out, with the reason in participants.tsv."""
    max_excluded: Count = 5
    """`exclude`: the run stops if flags exclude more participants than this."""
    accept: dict[Doubt, Literal["all"] | tuple[str, ...]] = Field(default_factory=SHOWN_ONLY.copy)
    """flag: list of participant_ids, or `all`. An accepted flag is shown, but has no effect. `flip_suspected`,
    `field_of_view`, `forms_differ`, `background_within` and `image_quality` are accepted for all unless they are set to
    []."""
    max_spacing_mm: Positive = 3.0
    """`thick_slices`: flags voxels longer than this along any axis that is resampled, in mm: all axes, or with native
    slices (`preprocess.spacing_mm`) those in plane. With `data.two_dimensional: include` the flag is only shown, unless
    slices are native."""
    max_lesion_outside: Fraction = 0.5
    """`lesion_outside_brain`: flags a lesion with a larger share outside the brain mask (without one: the head)."""

    @field_validator("accept")
    @classmethod
    def _with_defaults(cls, accept):
        # To accept one more flag changes nothing about the others.
        return {**SHOWN_ONLY, **accept}

    def accepts(self, flag: str, participant_id: str) -> bool:
        """Whether this flag of this participant is accepted."""
        names = self.accept.get(flag, ())
        return names == "all" or participant_id in names
