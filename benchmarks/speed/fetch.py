"""Download speed over loopback of two versions of slimdiff, in turns.

    python benchmarks/speed/fetch.py --other ../slimdiff-0.1.0 [--files 12 --mb 64]

A local HTTP server of its own process serves random files; each version downloads them into an empty folder and checks
size and sha256, then runs again on the complete folder, which verifies all files. Prints MB/s of both, and the ratio
this / other (above 1: this version is faster). `--other` is a checkout of another version from 0.1.0 on.
"""

import argparse
import functools
import hashlib
import http.server
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parents[2]
CHILD = """
import json, sys, time
from pathlib import Path, PurePosixPath
from slimdiff.config.data import FetchConfig
try:
    from slimdiff.data.fetch.dataset import fetch
    from slimdiff.data.fetch.download import File, Manifest
except ImportError:  # version 0.1.0
    from slimdiff.data.fetch import fetch
    from slimdiff.data.manifest import File, Manifest
folder, url, listed = Path(sys.argv[1]), sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
files = tuple(File(PurePosixPath(name), size, digest) for name, size, digest in listed)
manifest = Manifest("ds004199", "1", "none", url, files, "0")
for _ in range(2):
    start = time.perf_counter()
    fetch(FetchConfig(dataset="ds004199"), folder / "data", folder / "fetched.json", manifest=manifest)
    print(time.perf_counter() - start)
"""


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


def serve(folder: str, port) -> None:
    """Serve a folder until the process ends."""
    handler = functools.partial(Silent, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        port.put(server.server_port)
        server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--other", type=Path, required=True, help="checkout of another version")
    parser.add_argument("--files", type=int, default=12)
    parser.add_argument("--mb", type=int, default=64, help="size of a file")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    trees = {"this": HERE, "other": options.other.resolve()}
    with tempfile.TemporaryDirectory() as scratch:
        source, listed = Path(scratch, "source"), []
        source.mkdir()
        for number in range(options.files):
            content = np.random.default_rng(number).bytes(options.mb * 1_000_000)
            (source / f"file-{number}.bin").write_bytes(content)
            listed.append([f"file-{number}.bin", len(content), hashlib.sha256(content).hexdigest()])
        manifest = Path(scratch, "files.json")
        manifest.write_text(json.dumps(listed))
        port = multiprocessing.Queue()
        server = multiprocessing.Process(target=serve, args=(str(source), port), daemon=True)
        server.start()
        url, times = f"http://127.0.0.1:{port.get()}", {side: [] for side in trees}
        for repeat in range(options.repeats):
            for side, tree in trees.items():
                folder = Path(scratch, f"{side}-{repeat}")
                folder.mkdir()
                done = subprocess.run(
                    [sys.executable, "-c", CHILD, str(folder), url, str(manifest)],
                    capture_output=True,
                    text=True,
                    cwd=folder,
                    env={**os.environ, "PYTHONPATH": str(tree)},
                )
                if done.returncode:
                    raise SystemExit(f"{tree}:\n{done.stderr[-2000:]}")
                times[side].append([float(line) for line in done.stdout.split()])
        server.terminate()
    for place, what in enumerate(("download", "verification")):
        speed = {
            side: options.files * options.mb / min(row[place] for row in rows) for side, rows in times.items()
        }
        print(f"{what}\t{speed['this']:.0f}\t{speed['other']:.0f} MB/s\t{speed['this'] / speed['other']:.2f}")


if __name__ == "__main__":
    main()
