"""The front page: should these samples be trusted, and what may be done with them?"""

from collections.abc import Mapping, Sequence

from slimdiff.config import Study
from slimdiff.data.folds import read_folds
from slimdiff.data.participants import read_included
from slimdiff.data.store import SliceStore
from slimdiff.files import write_text
from slimdiff.generation.samples import Samples, read_samples
from slimdiff.report import html_page
from slimdiff.report.front import browse, facts
from slimdiff.report.front.embedding import BEGIN, CSS, END
from slimdiff.report.front.rules import STATES
from slimdiff.report.front.tiles import chosen_pairs, pairs_table
from slimdiff.report.front.verdicts import GOES_TO, QUESTIONS, Answer, Use, first_line, judge_samples, uses
from slimdiff.report.html_page import text
from slimdiff.report.results import (
    all_metrics,
    read_history,
    read_neighbours,
    read_outliers,
    read_validation,
)

SHOWN_FOLD = 0
ALSO = {
    "quality.html": "Every volume",
    "participants.html": "participants and folds",
    "training.svg": "training",
    "methods.html": "methods text",
    "provenance.html": "software, machine, jobs",
}
"""Further pages, which the page names at its end."""
LEGEND = (
    "Floor: what real training slices reach against held-out subjects. The worst fold is shown, and it decides. "
    "Green circle: the 95 % interval reaches the floor. Amber diamond: it does not. Red square: beyond a fixed limit. "
    "Grey ring: cannot be told, for example below five held-out subjects. Rules: docs/metrics.md."
)


def verdicts_table(verdicts: Sequence[Answer], variant: str) -> str:
    """One row for each question."""
    rows = []
    for one in verdicts:
        file, word = GOES_TO[one.key]
        measure = f"{one.measure}, fold {one.fold}" if one.measure else ""
        rows.append(
            f'<tr><td class="state {one.state}">{STATES[one.state]}</td><th scope="row">{QUESTIONS[one.key]}</th>'
            f'<td>{text(one.answer)}</td><td>{text(measure)}</td><td class="n">{text(one.value or "–")}</td>'
            f'<td class="n">{text(one.floor or "–")}</td><td class="n">{text(one.interval or "–")}</td>'
            f'<td class="n"><a href="#{text(file.format(variant))}">{word}</a></td></tr>'
        )
    head = "<tr><th></th><th>question</th><th>answer</th><th>measure</th><th>value</th><th>floor</th>"
    head += "<th>95 % interval</th><th>see</th></tr>"
    return f'<table class="verdicts"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def uses_list(allowed: Sequence[Use]) -> str:
    """What may be done with the samples, in one line each."""
    colour = {"yes": "good", "with care": "fair", "no": "bad", "cannot be told": "unknown"}
    items = [
        f'<li><span class="state {colour[use.allowed]}">{text(use.purpose)}: <b>{use.allowed}</b></span> '
        f'<span class="quiet">{text(use.why)}</span></li>'
        for use in allowed
    ]
    return f'<ul class="uses">{"".join(items)}</ul>'


def variants_table(verdicts: Mapping[str, Sequence[Answer]]) -> str:
    """The states of every variant; empty with one variant."""
    if len(verdicts) < 2:
        return ""
    keys = [one.key for one in next(iter(verdicts.values()))]
    head = "".join(f"<th>{QUESTIONS[key]}</th>" for key in keys)
    rows = ""
    for name, own in verdicts.items():
        cells = "".join(f'<td class="state {one.state}">{STATES[one.state]}</td>' for one in own)
        rows += f'<tr><th scope="row">{text(name)}</th>{cells}</tr>'
    return (
        "<h2>All variants</h2>"
        f'<table class="verdicts"><thead><tr><th>variant</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    )


def next_steps(verdicts: Sequence[Answer], variant: str, thin: bool, falling: bool) -> list[tuple[str, str]]:
    """File and words: what to look at next, the most important first."""
    words = {
        "texture": "Compare samples with their closest training slices.",
        "shape": "Compare places, sizes and shapes of lesions; another threshold tau may help.",
        "pair": "Look at contrast and intensities of the lesions in the metrics table.",
        "class": "Find the z-bins in which samples do not obey their class.",
        "copies": "Look at the suspected copies, side by side with their training slices.",
        "outliers": "Look at the outliers; export.without_outliers leaves them out.",
        "useful": "See Dice and false positives of every segmenter.",
        "sites": "See which site differs.",
    }
    files = {key: file.format(variant) for key, (file, _) in GOES_TO.items()} | {
        "texture": f"samples_{variant}.html"
    }
    steps = []
    for state in ("bad", "fair"):
        steps += [(files[one.key], words[one.key]) for one in verdicts if one.state == state]
    if falling:
        steps.append(("training.svg", "Validation was still improving: train longer (training.steps)."))
    if thin:
        steps.append(
            ("participants.html", "Some z-bins have too few subjects with a lesion: do not use them.")
        )
    return steps[:5] or [(f"samples_{variant}.html", "Look through the samples: no number replaces that.")]


def _list(lines: Sequence[str]) -> str:
    return f'<ul class="plain">{"".join(f"<li>{text(line)}</li>" for line in lines)}</ul>'


def front_body(
    study: Study,
    verdicts: Mapping[str, Sequence[Answer]],
    tiles: str,
    known: Mapping[str, Sequence[str]],
    steps,
) -> str:
    """The page's body.

    Args:
        study: for its title and notice.
        verdicts: variant to its verdicts; the first variant is shown in full.
        tiles: of `pairs_table`.
        known: heading to the sentences below it.
        steps: of `next_steps`.
    """
    variant = next(iter(verdicts))
    state, line = first_line(verdicts[variant])
    title = study.report.title or study.study
    notice = f"<small>{text(study.report.notice)}</small>" if study.report.notice else ""
    shown = f" Variant {text(variant)}." if len(verdicts) > 1 else ""
    columns = "".join(f"<div><h2>{text(name)}</h2>{_list(lines)}</div>" for name, lines in known.items())
    links = "".join(f'<li><a href="#{text(file)}">{text(words)}</a></li>' for file, words in steps)
    also = ", ".join(f'<a href="#{file}">{words}</a>' for file, words in ALSO.items())
    return (
        f'<div id="front"><h1>{text(title)}{notice}</h1>\n<p class="first {state}">{text(line)}{shown}</p>\n'
        f"{uses_list(uses(verdicts[variant]))}\n{tiles}\n"
        f'<p class="quiet">Fold {SHOWN_FOLD}, selected by seed, not by hand. One intensity window; the lesion mask is '
        f'outlined. <a href="#samples_{text(variant)}.html">Samples beside their closest training slices</a></p>\n'
        f"{verdicts_table(verdicts[variant], variant)}\n"
        f'<p class="quiet">{text(LEGEND)}</p>\n{variants_table(verdicts)}'
        f'<h2>What to look at next</h2><ul class="plain">{links}</ul>\n<div class="columns">{columns}</div>'
        f'<p class="quiet">{also}</p></div>'
    )


def write_front(study: Study, variants: Sequence[str], folds: int) -> None:
    """Write `tables/front.html`, and for each variant `tables/samples_{variant}.html`."""
    paths = study.paths
    store = SliceStore.open(paths.store)
    people = read_included(paths.participants, paths.volume_json)
    splits = [read_folds(paths.folds, fold) for fold in range(folds)]
    subjects, sites = facts.held_out_subjects(store, splits), facts.sites_of(people)
    rows = all_metrics(paths, variants, folds, study.utility.enabled)
    verdicts = {
        variant: judge_samples(rows[rows["variant"] == variant], subjects, sites, study.utility.enabled)
        for variant in variants
    }
    first, tau = variants[0], study.evaluation.tau
    tiles = ""
    for variant in variants:
        samples = {
            fold: read_samples(paths.samples(variant, fold), store.n_bins, on_disk=True)
            for fold in range(folds)
        }
        if variant == first:
            tiles = _tiles(store, splits[SHOWN_FOLD]["test"], samples[SHOWN_FOLD], tau)
        body = browse.browse_body(
            store,
            samples,
            read_neighbours(paths, variant, folds),
            read_outliers(paths, variant, folds),
            tau,
            max(1, round(study.evaluation.min_component_mm2 / store.spacing_mm**2)),
            budget=browse.BUDGET // len(variants),
            most=max(1, browse.MOST // len(variants)),
        )
        page = html_page.page(f"{study.report.title}: samples of {variant}", study.report.notice, body)
        write_text(paths.tables / f"samples_{variant}.html", page)
    trained, falling = facts.training_facts(
        read_history(paths, [first], folds), read_validation(paths, [first], folds)
    )
    cohort = facts.cohort_facts(people, store, splits)
    known = {
        "The cohort in numbers": cohort,
        "Training": trained,
        "What it cost": facts.cost_facts(paths.root / "benchmarks"),
    }
    thin = any(store.few_lesions(split["train"]) for split in splits)
    steps = next_steps(verdicts[first], first, thin, falling)
    body = front_body(study, verdicts, tiles, known, steps)
    page = html_page.page(
        f"{study.report.title}: front page", "", f"<style>{CSS}</style>{BEGIN}{body}{END}", heading=False
    )
    write_text(paths.tables / "front.html", page)


def _tiles(store: SliceStore, held_out: Sequence[str], samples: Samples, tau: float) -> str:
    pairs = chosen_pairs(store, held_out, samples)
    if not pairs:
        return "<p>n/a: no z-bin has both a held-out slice and a sample of the same class.</p>"
    return pairs_table(store, pairs, samples, tau)
