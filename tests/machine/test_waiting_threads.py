import os
import re
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("given", "sleeps"), [(None, True), ("ACTIVE", False)])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(given, sleeps):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if given:
        environment["OMP_WAIT_POLICY"] = given
    # torch's OpenMP prints how often a waiting thread looks before it sleeps.
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"
    command = [sys.executable, "-c", "import slimdiff, torch"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    found = re.search(r"GOMP_SPINCOUNT = '(\d+)'", printed)
    if found is None:
        pytest.skip("this torch has no OpenMP that prints its settings")
    assert (int(found[1]) == 0) == sleeps
