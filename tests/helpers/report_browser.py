"""report.html, index.html and the page of samples, opened in Chromium by playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WINDOW = {"width": 1366, "height": 768}
MOST_BYTES = 15_000_000
LOCAL = ("data:", "file:", "blob:")


@contextmanager
def browser_page(scripts: bool = True) -> Iterator:
    """A page of a browser; on leaving, it must have had no error and asked for nothing outside of its files."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (extra `dev`): the report was not opened"
    )
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None:
        pytest.skip("no chromium on this machine: the report was not opened")
    errors: list[str] = []
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=found, args=["--no-sandbox"])
        context = browser.new_context(java_script_enabled=scripts, viewport=WINDOW)
        page = context.new_page()
        page.on("console", lambda line: line.type == "error" and errors.append(f"console: {line.text}"))
        page.on("pageerror", lambda error: errors.append(f"script: {error}"))
        page.on(
            "request",
            lambda request: request.url.startswith(LOCAL) or errors.append(f"request: {request.url[:200]}"),
        )
        yield page
        browser.close()
    assert not errors, "\n".join(errors)


def check_front(page) -> None:
    """Answer, use and the first verdicts are in the first window; nothing is wider than it."""
    first = page.locator("#front p.first")
    box = first.bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] < 200 and len(first.inner_text()) > 20
    verdicts = page.locator("#front table.verdicts").first.locator("tbody tr")
    assert 6 <= verdicts.count() <= 8
    assert verdicts.first.bounding_box()["y"] < WINDOW["height"]
    assert page.locator("#front .uses li").count() == 4
    front = page.locator("#front").bounding_box()
    assert front["x"] >= 0 and front["x"] + front["width"] <= WINDOW["width"]


def check_report(root: Path, headings: int = 8) -> None:
    """All of report.html: the front page, two clicks to each result, and each link of the front page."""
    assert (root / "report.html").stat().st_size < MOST_BYTES
    with browser_page() as page:
        page.goto((root / "report.html").as_uri())
        page.wait_for_selector("#front")
        check_front(page)
        assert page.title().endswith(": report")
        links = page.eval_on_selector_all("#front a", "links => links.map(link => link.hash)")
        assert len(links) >= 8
        for link in dict.fromkeys(links):
            page.evaluate("link => { location.hash = link }", link)
            page.wait_for_selector(".shown .about")
            check_shown(page)
            page.go_back()
            page.evaluate("() => { location.hash = '#front' }")
            page.wait_for_selector("#front")
        menu = page.locator("nav li", has_text="").all_inner_texts()
        categories = [text for text in menu if text[:1].isdigit()]
        assert len(categories) == headings, menu
        for category in categories:
            page.evaluate("() => { location.hash = ''; app.setView({ navbarMode: 'menu' }) }")
            page.get_by_text(category, exact=True).click()
            # A TSV file is downloaded, not shown: its button has no page.
            buttons = page.locator("nav tbody tr").filter(has_not_text="TSV").filter(has_not_text="JSON")
            assert buttons.count()
            for number in range(buttons.count()):
                buttons.nth(number).locator("a").first.click()
                page.wait_for_selector(".shown .about")
                check_shown(page)


def check_shown(page) -> None:
    """A caption, and below it a picture that was drawn or a page with text; its top can be reached."""
    about = page.locator(".shown .about")
    assert about.inner_text().strip() and about.bounding_box()["y"] >= 0
    frame = page.locator(".shown iframe")
    if frame.count():
        inside = page.frame_locator(".shown iframe").locator("body")
        assert len(inside.inner_text()) > 50
        assert frame.bounding_box()["height"] > 400
    else:
        picture = page.locator(".shown img")
        assert picture.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") > 100
        assert picture.bounding_box()["y"] >= 0 and picture.bounding_box()["width"] <= WINDOW["width"]


def check_index(root: Path) -> None:
    """index.html without scripts: the front page, and every picture is found beside it."""
    text = (root / "index.html").read_text(encoding="utf-8")
    assert "<script" not in text
    with browser_page(scripts=False) as page:
        page.goto((root / "index.html").as_uri())
        check_front(page)
        pictures = page.locator("section img")
        assert pictures.count() >= 6
        for number in range(pictures.count()):
            address = pictures.nth(number).get_attribute("src")
            assert (root / address).is_file(), address
        pictures.first.scroll_into_view_if_needed()
        page.wait_for_timeout(200)
        assert pictures.first.bounding_box()["height"] > 50
        for link in page.locator("nav.top a").all():
            target = link.get_attribute("href")
            assert page.locator(f'[id="{target[1:]}"]').count() == 1, target
        for link in page.locator("#front a").all():
            target = link.get_attribute("href")
            assert page.locator(f'[id="{target[1:]}"]').count() == 1, target


def check_samples(page_file: Path) -> None:
    """The filters of the page of samples, without scripts."""
    with browser_page(scripts=False) as page:
        page.goto(page_file.as_uri())
        samples = page.locator(".samples .one")
        everything = samples.count()
        assert everything and samples.first.is_visible()

        def shown() -> int:
            return page.locator(".samples .one:visible").count()

        assert shown() == everything
        page.locator('label[for="z-bin-1"]').click()
        of_bin = shown()
        assert of_bin == page.locator(".samples .one.z-bin-1").count() < everything
        page.locator('label[for="class-lesion"]').click()
        assert shown() == page.locator(".samples .one.z-bin-1.class-lesion").count() < of_bin
        page.locator('label[for="z-bin-all"]').click()
        page.locator('label[for="class-all"]').click()
        page.locator('label[for="flag-copy"]').click()
        assert shown() == page.locator(".samples .one.flag-copy").count() < everything
