"""Hooks of mkdocs: files of the repository that are pages of the site, and links to them.

A page links as it does in the repository (`../config/README.md`), so that it can be read there, too. In the site the
folder `docs` is the top, and these files lie below it under the same names.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
OUTSIDE = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "config", "workflow/schemas")
"""Files and folders outside of `docs` that the site has."""


def on_files(files, config):
    """Add the files outside of `docs`."""
    for name in OUTSIDE:
        path = ROOT / name
        for one in sorted(path.iterdir()) if path.is_dir() else [path]:
            files.append(File.generated(config, str(one.relative_to(ROOT)), abs_src_path=str(one)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite links that leave `docs`, and those of pages that are outside of it."""
    folder = posixpath.dirname(page.file.src_uri)
    outside = page.file.src_uri.startswith(OUTSIDE)
    here = folder if outside else posixpath.join("docs", folder)

    def link(found: re.Match) -> str:
        target, _, anchor = found[1].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return found[0]
        place = posixpath.normpath(posixpath.join(here, target)).removeprefix("docs/")
        return f"]({posixpath.relpath(place, folder or '.')}{'#' + anchor if anchor else ''})"

    return re.sub(r"\]\(([^)\s]+)\)", link, markdown)
