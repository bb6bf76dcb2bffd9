"""The front page in report.html, and index.html, the same pages for viewers that block scripts.

Snakemake's page shows its description first, has a caption behind another button than its figure, and no addresses of
its own. Here the description becomes the front page, a figure is shown below its caption, and `#name-of-a-file` opens
that file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimdiff.report import html_page

BEGIN, END = "<!-- front page -->", "<!-- end of the front page -->"
"""Between them is what report.html and index.html take from the page."""
CSS = """
#front { max-width: 1080px; font-size: 13px; line-height: 1.35; color: #1c2530; }
#front h1 { font-size: 20px; font-weight: 700; margin: 0 0 6px; line-height: 1.2; }
#front h1 small { font-size: 13px; font-weight: 400; color: #a33f00; margin-left: .6em; }
#front h2 { font-size: 14px; font-weight: 700; margin: 14px 0 3px; }
#front p.first { font-size: 16px; font-weight: 600; margin: 0 0 6px; padding: 6px 12px; border-left: 6px solid; }
#front .bad.first { border-color: #b42318; background: #fdecea; }
#front .fair.first { border-color: #b76e00; background: #fff5e0; }
#front .good.first { border-color: #1a7f4b; background: #e8f6ee; }
#front .unknown.first { border-color: #66707c; background: #eef0f2; }
#front table { border-collapse: collapse; border: 0; margin: 4px 0; width: 100%; display: table; }
#front th, #front td { padding: 2px 8px 2px 0; text-align: left; vertical-align: top; white-space: normal;
  min-width: 0; border: 0; }
#front table.verdicts tr + tr > * { border-top: 1px solid #dde2e7; }
#front thead th { color: #56616d; font-weight: 400; font-size: 12px; }
#front tbody th { font-weight: 600; }
#front table.verdicts { font-size: 12px; }
#front td.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
#front .verdicts tbody th { width: 12em; }
#front .state { width: 6.2em; font-size: 12px; white-space: nowrap; }
#front .state::before { content: ""; display: inline-block; width: 10px; height: 10px; margin-right: 6px;
  background: #66707c; }
#front .state.good::before { background: #1a7f4b; border-radius: 5px; }
#front .state.fair::before { background: #e09000; transform: rotate(45deg); }
#front .state.bad::before { background: #b42318; }
#front .state.unknown::before {
  background: none; border: 2px solid #66707c; border-radius: 5px; width: 6px; height: 6px;
}
#front table.tiles { width: auto; }
#front table.tiles th { font-size: 11px; font-weight: 400; color: #56616d; line-height: 1.15; padding: 1px; }
#front table.tiles tr > th:first-child { width: 58px; }
#front table.tiles td { padding: 1px; }
#front table.tiles img { width: 76px; height: auto; display: block; margin: 0; background: #000; }
#front .uses { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 0 0 4px; padding: 0; list-style: none; }
#front .uses li { margin: 0; padding: 0; font-size: 12px; }
#front .columns { display: flex; gap: 28px; flex-wrap: wrap; }
#front .columns > div { flex: 1 1 300px; }
#front ul.plain { margin: 0; padding: 0 0 0 1.1em; list-style: disc; }
#front .quiet { color: #56616d; font-size: 12px; margin: 2px 0; }
#front a { color: #0b5cad; text-decoration: underline; }
@media (max-width: 800px) {
  #front table.tiles { display: block; overflow-x: auto; }
  #front table.tiles img { width: 52px; max-width: none; }
  #front table.verdicts thead { display: none; }
  #front table.verdicts tr { display: block; padding: 4px 0; border-top: 1px solid #dde2e7; }
  #front table.verdicts tr > *, #front table.verdicts tr + tr > * {
    display: inline-block; border: 0; width: auto; padding: 1px 8px 1px 0;
  }
  #front table.verdicts tr > td:nth-child(3) { display: block; }
  #front table.verdicts td:nth-child(6)::before { content: "floor "; color: #56616d; }
  #front table.verdicts td:nth-child(7)::before { content: "95 % "; color: #56616d; }
}
"""
STYLE = """
/* The window's content begins at its top, so that nothing above it is out of reach. */
.grow.flex.items-center.justify-center { align-items: flex-start !important; justify-content: flex-start !important; }
.grow.flex:has(#rulegraph) { flex-direction: column; }
.prose:has(#front) { max-width: none !important; }
nav.h-screen { min-width: 0 !important; width: 15.5rem; flex: none; }
nav.h-screen.w-0 { width: 0; }
nav.h-screen td, nav.h-screen th { white-space: normal !important; overflow-wrap: anywhere; }
.shown { width: 100%; min-height: 100vh; display: flex; flex-direction: column; }
.shown > .about { padding: .5rem 1rem; max-width: 64rem; font-size: 13px; color: #1c2530; }
.shown > .about p { margin: 0 0 .25rem; }
.shown img { max-width: 100%; }
.shown iframe { flex: 1 1 auto; min-height: 60vh; border-top: 1px solid #dde2e7; }
@media (max-width: 800px) {
  nav.h-screen { width: 8rem; }
  .grow.flex, .grow.flex > div:has(#front) { min-width: 0; max-width: 100%; }
}
"""
SCRIPT = """
(function () {
  // Chromium shows no page of more than 2 MB whose address is its content.
  const blobs = {};
  function frame(state, result) {
    const path = state.resultPath;
    if (!blobs[path]) {
      const bytes = Uint8Array.from(atob(result.data_uri.split(";base64,")[1]), (sign) => sign.charCodeAt(0));
      blobs[path] = URL.createObjectURL(new Blob([bytes], { type: "text/html;charset=utf-8" }));
    }
    return e("iframe", { src: blobs[path], title: result.name, className: "w-full", key: path });
  }
  const plain = ContentDisplay.prototype.renderContent;
  ContentDisplay.prototype.renderContent = function () {
    const state = this.props.app.state, result = results[state.resultPath];
    const shown = state.content === "html" ? frame(state, result) : plain.call(this);
    if (!["img", "html"].includes(state.content) || !result || !result.caption) { return shown; }
    const about = { className: "about", dangerouslySetInnerHTML: { __html: result.caption } };
    return e("div", { className: "shown", key: state.resultPath }, e("div", about), shown);
  };
  function open() {
    const name = decodeURIComponent(location.hash.slice(1));
    if (name === "front") { app.setView({ content: "rulegraph", navbarMode: "menu" }); return; }
    const path = Object.keys(results).find((path) => path === name || path.endsWith("/" + name));
    if (!path) { return; }
    const view = { resultPath: path, contentPath: results[path].data_uri, navbarMode: "subcategory" };
    view.content = results[path].mime_type === "text/html" ? "html" : "img";
    for (const [category, parts] of Object.entries(categories)) {
      for (const [part, paths] of Object.entries(parts)) {
        if (paths.includes(path)) { view.category = category; view.subcategory = part; }
      }
    }
    // The list of a category keeps what it first showed: it is left before another is opened.
    app.setState({ navbarMode: "menu" }, () => app.setView(view));
  }
  window.addEventListener("hashchange", open);
  window.addEventListener("load", open);
})();
"""
INDEX_CSS = """
nav.top { position: sticky; top: 0; background: #fff; border-bottom: 1px solid #ccc; padding: .3rem 0; z-index: 1; }
nav.top a { margin-right: 1rem; } section { border-top: 1px solid #dde2e7; margin-top: 1rem; scroll-margin-top: 3rem; }
section img { max-width: 100%; } section p { max-width: 64rem; margin: .2rem 0; }
h2 { scroll-margin-top: 3rem; }
"""
INDEX_POLICY = html_page.POLICY.replace("img-src data:", "img-src data: 'self' file:")
MENU = '"Workflow", "share"'
"""How Snakemake's menu names the page that is shown first."""


def body_of(page: Path) -> str:
    """What report.html and index.html show of a written front page."""
    written = page.read_text(encoding="utf-8")
    return written.partition(BEGIN)[2].partition(END)[0]


def with_front(page: str, front: str, title: str) -> str:
    """Snakemake's page, whose description is the front page already, with its style, script, and title.

    Args:
        page: as `engine_report.safe_page` made it.
        front: HTML of the front page; empty: none was written.
        title: of the study.
    """
    style = STYLE + (CSS if front else "")
    page = page.replace("</head>", f"<style>{style}</style>\n</head>", 1)
    end = page.rindex("</body>")
    page = f"{page[:end]}<script>{SCRIPT}</script>\n{page[end:]}"
    page = page.replace(MENU, '"Front page", "share"')
    return page.replace(
        "<title>Snakemake Report</title>", f"<title>{html_page.text(title)}: report</title>", 1
    )


def index_page(
    front: str,
    results: Mapping[str, Mapping[str, Any]],
    categories: Mapping[str, Mapping[str, list[str]]],
    title: str,
    root: str,
) -> str:
    """index.html: the front page, then every figure with its caption, and links to every page. No script.

    Args:
        front: HTML of the front page.
        results: path to result, as Snakemake's report has them.
        categories: of the results.
        title: of the study.
        root: the study's folder, as it is in the paths of the results.
    """
    heads, body = "", ""
    for category in sorted(categories):
        anchor = re.sub(r"[^a-z0-9]+", "-", category.lower()).strip("-")
        heads += f'<a href="#{anchor}">{html_page.text(category)}</a>'
        body += f'<h2 id="{anchor}">{html_page.text(category)}</h2>'
        for path in (path for part in categories[category].values() for path in part):
            body += _section(path, results[path], root)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{INDEX_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html_page.text(title)}: report without scripts</title>"
        f"<style>{html_page.CSS}{INDEX_CSS}{CSS}</style></head>\n<body>"
        f'<nav class="top"><a href="#front">Front page</a>{heads}</nav>\n{front}\n{body}\n</body></html>\n'
    )


def _section(path: str, result: Mapping[str, Any], root: str) -> str:
    relative = path.removeprefix(f"{root}/")
    name = html_page.text(relative.rpartition("/")[2])
    address = html_page.text(relative)
    labels = ", ".join(str(value) for value in (result.get("labels") or {}).values())
    shown = f'<p><a href="{address}">Open {name}</a></p>'
    if str(result.get("mime_type", "")).startswith("image/"):
        shown = f'<a href="{address}"><img alt="{name}" loading="lazy" src="{address}"></a>'
    caption = result.get("caption") or ""
    return f'<section id="{name}"><b>{html_page.text(labels)}</b>{caption}{shown}</section>'
