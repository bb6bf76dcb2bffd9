"""The configuration of a study: pydantic models, one file per section."""

from slimdiff.config.base import ConfigError
from slimdiff.config.checks import check_acquisitions, check_fold_count
from slimdiff.config.loading import load_study, read_mapping, study_from_mapping
from slimdiff.config.needs import needs_json
from slimdiff.config.paths import StudyPaths
from slimdiff.config.study import VARIANT_SECTIONS, Study

__all__ = [
    "VARIANT_SECTIONS",
    "ConfigError",
    "Study",
    "StudyPaths",
    "check_acquisitions",
    "check_fold_count",
    "load_study",
    "needs_json",
    "read_mapping",
    "study_from_mapping",
]
