"""A fresh server and folder a test, and no proxy in between."""

import pytest
from helpers.fetch_place import Place
from helpers.local_server import serving


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def place(tmp_path):
    with serving() as site:
        yield Place(site, tmp_path)
