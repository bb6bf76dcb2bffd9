"""Where a dataset is fetched from: addresses, proxies, certificates, and the real list by its command."""

import json
import shutil
import subprocess
import sys
from pathlib import PurePosixPath

import pytest
from helpers.fetch_place import Place, manifest_of
from helpers.local_server import serving

from slimdiff.data.fetch.download import address, checked_base, read_file_manifest
from slimdiff.data.participants import DataError


@pytest.mark.parametrize(
    ("base", "path", "whole"),
    [
        ("https://a.org", "b/c.gz", "https://a.org/b/c.gz"),
        ("https://a.org/", "b/c.gz", "https://a.org/b/c.gz"),
        ("http://a.org:81/x/y/", "b c#1?%.gz", "http://a.org:81/x/y/b%20c%231%3F%25.gz"),
        ("https://a.org/x?key=1&d=a%2Fb", "b/ü", "https://a.org/x/b/%C3%BC?key=1&d=a%2Fb"),
        ("https://a.org/x y", "b", "https://a.org/x%20y/b"),
        ("https://a.org/x%20y", "b", "https://a.org/x%20y/b"),
    ],
)
def test_addresses_are_the_base_s_path_and_the_quoted_file_s(base, path, whole):
    assert address(checked_base(base), PurePosixPath(path)) == whole


@pytest.mark.parametrize(
    "base",
    ["ftp://a.org/x", "file:///etc", "s3://openneuro.org/x", "a.org/x", "https:///x", "http://a.org:x/"],
)
def test_other_addresses_are_refused(place, base):
    with pytest.raises(DataError, match=r"data\.fetch\.base_url: .*https:// or http://"):
        place.fetch(base_url=base)
    assert not place.root.exists()


def test_a_password_in_the_address_is_refused_and_not_repeated(place):
    with pytest.raises(DataError) as raised:
        place.fetch(base_url="https://me:secret@a.org/x")
    assert "a.org" in str(raised.value) and "secret" not in str(raised.value)


def test_another_place_with_odd_names_and_a_signature(place):
    odd = "sub-1/anat/a name#1?100%.json"
    place.publish(**{odd: b"{}"})
    manifest = manifest_of(place.contents, "http://127.0.0.1:9/nowhere")
    place.fetch(manifest=manifest, base_url=place.site.url + "/?signature=secret")
    assert not place.wrong()
    assert place.asked(odd)[0].target == "/pub/sub-1/anat/a%20name%231%3F100%25.json?signature=secret"
    record = json.loads(place.record.read_text())
    assert record["base_url"] == place.site.url + "/"


def test_a_proxy_of_the_environment_is_used(place, monkeypatch):
    monkeypatch.setenv("http_proxy", place.site.url.removesuffix("/pub"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    place.fetch(base_url="http://data.invalid/pub")
    assert not place.wrong()
    assert all(asked.target.startswith("http://data.invalid/pub/") for asked in place.site.asked)


def test_a_certificate_is_trusted_if_the_environment_says_so_and_tried_once(tmp_path, monkeypatch, constants):
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    certificate = tmp_path / "both.pem"
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(certificate)]
    subject = ["-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [
        "openssl",
        "req",
        "-x509",
        *key,
        "-out",
        str(tmp_path / "certificate.pem"),
        "-days",
        "1",
        *subject,
    ]
    subprocess.run(command, check=True, capture_output=True)
    with certificate.open("ab") as stream:
        stream.write((tmp_path / "certificate.pem").read_bytes())
    with serving(certificate) as site:
        place = Place(site, tmp_path)
        constants(WAIT_S=30)
        with pytest.raises(DataError, match="certificate verify failed.*SSL_CERT_FILE") as raised:
            place.fetch()
        # There is no second attempt.
        assert "attempts" not in str(raised.value) and site.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
        with pytest.raises(DataError, match=r"certificate.*gone\.pem"):
            place.fetch()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        place.fetch()
        assert not place.wrong()


def test_ds004199_by_its_command(tmp_path, shared_data):
    """A server with what is known of the dataset, everything but its images: the rest is kept, and all are named."""
    source = shared_data / "ds004199"
    study = tmp_path / "study.json"
    with serving() as site:
        for file in read_file_manifest("ds004199").files:
            name = file.path.name
            here = source / (name if len(file.path.parts) == 1 else f"sidecars/{name}")
            if here.is_file():
                site.contents[f"pub/{file.path}"] = here.read_bytes()
        fetching = {"dataset": "ds004199", "base_url": site.url}
        values = {"data": {"source": "bids", "root": str(tmp_path / "data"), "fetch": fetching}}
        study.write_text(json.dumps({"study": "tiny", "results_dir": str(tmp_path / "results"), **values}))
        command = [sys.executable, "-m", "slimdiff", "fetch", "--config", str(study)]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "255 of 428 files could not be downloaded" in done.stderr
    assert "HTTP 404" in done.stderr and "sub-00170_acq-" in done.stderr and "T1w" not in done.stderr
    assert (tmp_path / "data" / "participants.tsv").read_bytes() == (source / "participants.tsv").read_bytes()
    assert len(list((tmp_path / "data").glob("sub-*/anat/*_FLAIR.json"))) == 170
    assert not list((tmp_path / "data").rglob("*.nii.gz")) and not (tmp_path / "results").exists()
