"""Files of a stage without the hashes that tell a damaged file, as a stranger, or an earlier version, has them."""

import json
from pathlib import Path

from slimdiff.files import CHECKSUM, seal_of
from slimdiff.generation.samples import MANIFEST


def unseal(*paths: Path) -> None:
    """Remove the seal of a table, or the checksum of a JSON file."""
    for path in paths:
        seal_of(path).unlink(missing_ok=True)
        if path.suffix == ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
            for key in (CHECKSUM, MANIFEST):
                values.pop(key, None)
            path.write_text(json.dumps(values), encoding="utf-8")
