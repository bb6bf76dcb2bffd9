"""README.md: short, and what it names exists; every command of the documentation is one that runs."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from slimdiff import cli, stages
from slimdiff.config import load_study

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code(path: Path, *kinds: str) -> list[str]:
    """Blocks of code of these kinds, without their indentation."""
    blocks = re.findall(r"(?ms)^( *)```(\w*)\n(.*?)^ *```", path.read_text(encoding="utf-8"))
    return [re.sub(rf"(?m)^{indent}", "", text) for indent, kind, text in blocks if kind in kinds]


def commands(path: Path) -> list[str]:
    """Lines of shell blocks; a comment at the end of a line is left out."""
    lines = "\n".join(code(path, "bash")).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def anchors(path: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and mkdocs make them."""
    titles = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8")))
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


def test_it_has_at_most_900_words():
    assert len(README.split()) <= 900


def test_the_first_screen_has_what_and_for_whom_the_picture_the_commands_and_three_links():
    first = README.split("\n## ")[0]
    parts = ("for researchers who", "](docs/demo.png)", "```bash", "own_data.md", "cluster.md", "report.md")
    places = [first.index(part) for part in parts]
    assert places == sorted(places)
    assert len(code(ROOT / "README.md", "bash")[0].strip().splitlines()) == 2
    assert len(first.splitlines()) <= 40


def test_the_gate_runs_the_commands_of_the_readme_and_the_tests_of_contributing():
    gate = (ROOT / ".ci" / "run").read_text()
    first = code(ROOT / "README.md", "bash")[0].strip().splitlines()
    # The gate has an environment of its own.
    wanted = [first[0].split(" && ")[-1], first[1], *commands(ROOT / "CONTRIBUTING.md")[1:2]]
    assert len(wanted) == 3
    assert not [command for command in wanted if command not in gate.splitlines()]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(path):
    broken = []
    for target in LINK.findall(re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8"))):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        place = (path.parent / file).resolve() if file else path
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_command_of_slimdiff_can_be_parsed(path, capsys):
    """Its stage and options exist, and an option that is a file of the repository does, too."""
    import argparse

    found = [line for line in commands(path) if re.match(r"slimdiff[ -]", line)]
    for line in found:
        words = shlex.split(line.replace("'", '"'))
        name = words[0].removeprefix("slimdiff").removeprefix("-") or words[1]
        rest = words[1:] if words[0] != "slimdiff" else words[2:]
        if name.startswith("-") or name == "census":
            continue
        assert name in stages.names(), line
        stage, rest = cli._elsewhere(name, cli._dashed(rest))
        parser = stages.fill(stage, argparse.ArgumentParser(prog=line))
        if rest == ["--help"]:
            continue
        options = parser.parse_args(rest)
        config = getattr(options, "config", None)
        # Its own check, behind the parser's.
        assert stage != "generate" or config or options.from_manifest, line
        if config and config.startswith("config/"):
            load_study(ROOT / config)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_command_of_python_and_snakemake_names_what_exists(path):
    text = "\n".join((ROOT / "workflow" / "rules" / file).read_text() for file in _rules())
    rules = set(re.findall(r"(?m)^rule (\w+):|^    rule (\w+):", text))
    rules = {name for pair in rules for name in pair if name} | {"all"}
    for line in commands(path):
        words = shlex.split(line.replace("'", '"'))
        if words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file(), line
        if words[0] != "snakemake" or "--unlock" in words:
            continue
        options = {"--cores": 1, "--configfile": 1, "--snakefile": 1, "--resources": 1, "--directory": 1}
        options |= {"--set-resources": 1, "--forcerun": 1, "--profile": 1}
        targets, place = [], 1
        while place < len(words):
            word = words[place]
            if word == "--forcerun":
                assert words[place + 1] in rules, line
            if word == "--configfile" and words[place + 1].startswith("config/"):
                assert (ROOT / words[place + 1]).is_file(), line
            place += 1 + options.get(word, 0)
            if not word.startswith("-"):
                targets.append(word)
        assert not [word for word in targets if word not in rules and not word.startswith("results/")], line


def _rules() -> list[str]:
    return sorted(path.name for path in (ROOT / "workflow" / "rules").glob("*.smk"))


def test_every_page_has_a_place_in_the_site():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def pages(part):
        if isinstance(part, str):
            yield part
        else:
            for one in part.values() if isinstance(part, dict) else part:
                yield from pages(one)

    listed = [page for page in pages(site["nav"]) if not page.startswith(("config/", "C"))]
    own = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == own


def test_the_site_is_built_with_pinned_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = (ROOT / "envs" / "constraints.txt").read_text()
    for requirement in project["optional-dependencies"]["docs"]:
        name = re.match(r"[\w-]+", requirement)[0]
        assert re.search(rf"(?m)^{name}==", pins), name
