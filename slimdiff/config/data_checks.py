"""Keys of `data` and `preprocess` that are each valid and do not fit together."""

from slimdiff.config.data import DataConfig
from slimdiff.config.errors import ConfigError
from slimdiff.config.preprocess import PreprocessConfig


def check_data(data: DataConfig, preprocess: PreprocessConfig) -> None:
    """Raise ConfigError where the source lacks what it needs, or a stage wants what the source cannot bring."""
    if data.source in ("bids", "nnunet", "brats") and not data.root:
        raise ConfigError(f"data.root: source {data.source} needs the dataset's folder")
    if data.source == "table" and not data.table:
        raise ConfigError("data.table: source table needs the path of a TSV or CSV")
    if data.fetch.dataset and data.source != "bids":
        raise ConfigError(
            f"data.fetch.dataset: {data.fetch.dataset} is a BIDS dataset, but data.source is {data.source}; set bids"
        )
    if preprocess.brain.method == "source" and not (
        data.source == "table" or (data.source == "bids" and data.brain_suffix)
    ):
        raise ConfigError(
            "preprocess.brain.method: source, but the source brings no brain mask; give data.brain_suffix (bids) or a "
            "column brain_mask (table), or take deepbet"
        )
