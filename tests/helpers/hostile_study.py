"""A tiny study whose every text attacks the page that shows it, and whose every path and address has a secret."""

import gzip
import json
import os
import shutil
import subprocess
from base64 import b64decode
from binascii import Error
from pathlib import Path

from helpers.synthetic import SPACING_MM, study_mapping, write_bids
from helpers.workflow_runs import snakemake

SECRETS = ("annasecret", "usersecret", "pwsecret", "sigsecret", "toksecret")
ADDRESS = "https://usersecret:pwsecret@host.example/data?X-Amz-Signature=sigsecret&token=toksecret"
TEXT = (
    "</script><script>document.title='script of {kind} ran'</script>"
    "<img src=x onerror=\"document.title='script of {kind} ran'\"> "
    ".. raw:: html |x| :url:`y` trail_ {x} {{1/0}} {% raw %} <x> --> ]]> & \" ' `q <javascript:alert(1)>`_ "
    "\u202eabc ^{<b>up</b>} $x_{$ \\input{/etc/passwd} =HYPERLINK(1)"
)
MARKUP = (
    "\n\n.. raw:: html\n\n   <script>document.title='script of raw ran'</script>\n\n.. include:: /etc/passwd\n\n"
    ".. raw:: html\n   :url: http://127.0.0.1:9/x\n\n\u2028 end"
)


def text(kind: str) -> str:
    return TEXT.replace("{kind}", kind)


def write_hostile_study(folder: Path) -> Path:
    """The study's file; its data, results and home are below `folder`/home/annasecret."""
    home = folder / "home" / "annasecret"
    root = write_bids(home / "my data" / "cohort")
    rows = ["participant_id\tgroup\tsite\tlobe\tacquisition\tperson\tnote"]
    for number in range(1, 9):
        cells = [text("group") if number <= 6 else "hc"]
        cells += [f"{text(kind)}{number % 2}" for kind in ("site", "lobe", "acquisition")]
        cells += [f"{text('person')}{number}", text("note")]
        rows.append("\t".join([f"sub-{number:02d}", *cells]))
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    counts = [f"{z_bin}\t{label}\t2" for z_bin in range(3) for label in (0, 1)]
    (home / "counts.tsv").write_text("\n".join(["z_bin\tclass\tn", *counts]) + "\n")
    private = f" {ADDRESS} {home}/notes.txt"
    values = study_mapping(root, home / "results")
    values["quality"] = {"max_spacing_mm": SPACING_MM + 1}
    values["data"] |= {
        "mask_root": str(root),
        "exclude": {"sub-06": text("reason") + private},
        "fetch": {"base_url": ADDRESS},
    }
    values["report"] = {
        "title": text("title") + MARKUP + private,
        "notice": text("notice") + MARKUP + private,
    }
    del values["generation"]["per_bin_and_class"]
    values["generation"] |= {"counts": str(home / "counts.tsv"), "where": "everywhere"}
    values["training"]["tensorboard"] = True
    values["utility"] = {"steps": 2, "shares": [0.5, 1.0], "channels": [16, 16], "batch_size": 4}
    path = folder / "study.json"
    path.write_text(json.dumps(values))
    return path


def environment(folder: Path) -> dict[str, str]:
    """With a home of its own; the weights stay where they are."""
    from slimdiff import weights

    return {"HOME": str(folder / "home" / "annasecret"), "SLIMDIFF_WEIGHTS": str(weights.folder())}


def run(folder: Path, *targets: str) -> subprocess.CompletedProcess:
    """Run the hostile study in `folder`."""
    study = str(folder / "study.json")
    return snakemake(*targets, "--cores", "2", "--configfile", study, folder=folder, **environment(folder))


def secrets_in(path: Path) -> set[str]:
    """The planted secrets in a file, packed or encoded parts of it too."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content += gzip.decompress(content)
    for part in content.split(b"base64,")[1:] if path.suffix == ".html" else ():
        try:
            content += b64decode(part.split(b'"')[0].split(b"\\")[0], validate=True)
        except Error:
            continue
    return {word for word in SECRETS if word.encode() in content}


def titles_in_a_browser(page: Path, profile: Path) -> str | None:
    """What the page's title is after its scripts ran; None without a browser."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        return None
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    options += ["--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [browser, *options, page.resolve().as_uri()], capture_output=True, timeout=120, env={**os.environ}
    )
    dom = done.stdout.decode("utf-8", "replace")
    return dom.partition("<title>")[2].partition("</title>")[0]
