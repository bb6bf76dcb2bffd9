"""Stages that only write tables and figures run without torch: 500 MB and seconds in each job."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError("refused: " + name)
sys.meta_path.insert(0, Refuse())
from slimdiff import cli
sys.exit(cli.run_stage(sys.argv[1], ["--config", sys.argv[2]]))
"""


@pytest.mark.parametrize("stage", ["compare", "figures", "tables"])
def test_the_stage_runs(finished, stage):
    paths = finished.paths
    written = {"compare": paths.comparison, "figures": paths.root / "figures" / "data.png"}
    target = written.get(stage, paths.tables / "front.html")
    target.unlink(missing_ok=True)
    command = [sys.executable, "-c", SCRIPT, stage, finished.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert target.is_file()
