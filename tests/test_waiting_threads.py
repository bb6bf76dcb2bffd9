import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(given, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if given:
        environment["OMP_WAIT_POLICY"] = given
    # torch's OpenMP prints its settings when it is loaded.
    environment["OMP_DISPLAY_ENV"] = "TRUE"
    command = [sys.executable, "-c", "import slimdiff, torch"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    if "OMP_WAIT_POLICY" not in printed:
        pytest.skip("this torch has no OpenMP that prints its settings")
    assert f"OMP_WAIT_POLICY = '{expected}'" in printed
