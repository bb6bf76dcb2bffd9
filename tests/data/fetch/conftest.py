"""A fresh server and folder for each test, no proxy, and short waits."""

import pytest
from helpers.fetch_place import Place
from helpers.local_server import serving

from slimdiff.data.fetch import download


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def constants(monkeypatch):
    """Short waits and few attempts; a test sets others by their names: `constants(ATTEMPTS=9)`."""

    def constants(**values):
        for name, value in values.items():
            monkeypatch.setattr(download, name, value)

    constants(ATTEMPTS=3, WAIT_S=0.0, TIMEOUT_S=5.0)
    return constants


@pytest.fixture
def place(tmp_path):
    with serving() as site:
        yield Place(site, tmp_path)
