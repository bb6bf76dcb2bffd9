"""The table of participants: folds, lesion volume, number of slices, and what looks unusual."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from slimdiff.data.participants import Participant, first_scans
from slimdiff.data.store import FEWEST_LESION_SUBJECTS, SliceStore
from slimdiff.files import MISSING, read_object
from slimdiff.report import html_page

OUTSIDE_SHARE = 0.05
VOLUME_CHANGE = 0.2
FACTS = ("acquisition", "site", "lobe", "source voxel [mm]", "axes")
"""Columns of the table that are left out, and said once, where all participants have the same value."""
NUMBERS = ("lesion, source [ml]", "on the grid [ml]", "slices", "with lesion", "lesion too small")
ODD_DEVIATIONS = 3.5  # of the robust z-score; Iglewicz and Hoaglin 1993


def read_records(paths: dict[str, Path]) -> dict[str, dict]:
    """The preprocess record of every participant that has one."""
    return {name: read_object(path) for name, path in paths.items() if path.is_file()}


def odd_sizes(records: dict[str, dict]) -> set[str]:
    """Participants whose foreground volume is far from the cohort's median."""
    sizes = pd.Series({name: record["qc"]["foreground_ml"] for name, record in records.items()}, dtype=float)
    deviation = (sizes - sizes.median()).abs()
    spread = deviation.median() / 0.6745
    if len(sizes) < 5 or spread == 0:
        return set()
    return set(sizes.index[deviation / spread > ODD_DEVIATIONS])


def to_check(
    person: Participant, qc: dict, slices: int, lesion_slices: int, odd: bool, cut: int = 0
) -> list[str]:
    """What to check before using this participant's slices."""
    found = []
    if not slices:
        found.append("no slice in the store")
    if person.is_patient:
        if slices and not lesion_slices:
            found.append("no lesion slice kept")
        if cut:
            found.append(f"{cut} lesion slice{'s' * (cut > 1)} outside slices.z_range")
        outside = qc["lesion_outside_foreground_share"]
        if outside > OUTSIDE_SHARE:
            found.append(f"{100 * outside:.0f} % of the lesion outside the head")
        # An affine registration scales every volume; the rest of the change is due to resampling.
        expected = qc["lesion_ml_source"] * qc.get("registration_volume_ratio", 1)
        change = qc["lesion_ml_grid"] / expected - 1 if expected else 0
        if abs(change) > VOLUME_CHANGE:
            found.append(f"lesion volume {100 * change:+.0f} % on the grid".replace("-", "−"))
    if odd:
        found.append(f"unusual foreground, {qc['foreground_ml']:.0f} ml")
    return found


def participants_body(
    people: Sequence[Participant],
    records: dict[str, dict],
    splits: Sequence[dict[str, list[str]]],
    store: SliceStore,
) -> str:
    """HTML: one row for each participant, excluded ones with their reason.

    splits: for each fold the mapping that `read_folds` returns.
    """
    odd = odd_sizes(records)
    small = store.facts.get("dropped_small_lesion", {})
    outside = store.facts.get("lesion_outside_z_range", {})
    rows = []
    for person in people:
        name = person.participant_id
        row = {"participant": name, "to check": "", "group": person.group}
        row |= {
            f"fold {fold}": next((part for part, names in split.items() if name in names), "–")
            for fold, split in enumerate(splits)
        }
        rows.append(row | {key: getattr(person, key) for key in ("acquisition", "site", "lobe")})
        if not person.included or name not in records:
            rows[-1]["to check"] = (
                f"excluded: {person.excluded}" if not person.included else "no preprocess record"
            )
            continue
        qc = records[name]["qc"]
        own = store.rows_of([name])
        lesioned = int((store.label[own] == 1).sum())
        rows[-1] |= {
            "to check": "; ".join(
                to_check(person, qc, len(own), lesioned, name in odd, outside.get(name, 0))
            ),
            "lesion, source [ml]": f"{qc['lesion_ml_source']:.2f}" if person.is_patient else "–",
            "on the grid [ml]": f"{qc['lesion_ml_grid']:.2f}" if person.is_patient else "–",
            "slices": len(own),
            "with lesion": lesioned,
            "lesion too small": small.get(name, 0),
            "source voxel [mm]": " × ".join(f"{edge:.3g}" for edge in qc["source_spacing_mm"]),
            "axes": qc["source_orientation"],
        }
    columns = list(max(rows, key=len)) if rows else []
    same = {name: values.pop() for name in FACTS if len(values := _values(rows, name)) == 1 and len(rows) > 1}
    columns = [name for name in columns if name not in same]
    head = "".join(f"<th{_style(name)}>{name}</th>" for name in columns)
    body = ["".join(_cell(name, row.get(name, "–")) for name in columns) for row in rows]
    table = html_page.table(f"<tr>{head}</tr>", [f"<tr>{cells}</tr>" for cells in body])
    remark = (
        [f"The same for all: {', '.join(f'{name} {value}' for name, value in same.items())}."] if same else []
    )
    return table + _summary(people, splits, store, remark)


def _values(rows: Sequence[dict], name: str) -> set[str]:
    return {row[name] for row in rows if name in row}


def _style(name: str) -> str:
    return ' class="number"' if name in NUMBERS else ""


def _cell(name: str, value: object) -> str:
    shown = html_page.text(value)
    if name == "participant":
        return f'<th scope="row">{shown}</th>'
    return f'<td class="wrap alarm">{shown}</td>' if name == "to check" else f"<td{_style(name)}>{shown}</td>"


def _summary(
    people: Sequence[Participant],
    splits: Sequence[dict[str, list[str]]],
    store: SliceStore,
    remarks: Sequence[str],
) -> str:
    included = [p for p in people if p.included]
    patients = {p.participant_id for p in included if p.is_patient}
    persons = len(set(first_scans(included).values()))
    several = f" ({persons} persons)" if persons < len(included) else ""
    notes = [
        *remarks,
        f"{len(included)} participants{several} in the study, {len(patients)} with a lesion mask; "
        f"{len(people) - len(included)} excluded. {len(store)} slices at {store.spacing_mm:g} mm, "
        f"{int((store.label == 1).sum())} with a lesion; {sum(store.facts['dropped'].values())} dropped: "
        f"{store.facts['dropped']['lesion_too_small']} with a lesion under {store.facts['min_lesion_px']} px, "
        f"{store.facts['dropped']['too_little_tissue']} with too little tissue.",
    ]
    # A store of an earlier version does not have the key.
    if harmonised := store.facts.get("harmonise"):
        notes.append(
            f"Intensities are harmonised by histogram landmarks, learned from {len(harmonised['participants'])} "
            f"{harmonised['learned_from']}."
        )
    for fold, split in enumerate(splits):
        parts = [
            f"{part} {len(names)} ({len(patients & set(names))} with a lesion)"
            for part, names in split.items()
        ]
        notes.append(f"Fold {fold}, participants: {', '.join(parts)}.")
        if few := store.few_lesions(split["train"]):
            notes.append(
                f"Fold {fold}: z-bins in which fewer than {FEWEST_LESION_SUBJECTS} training subjects have a lesion "
                f"(number of subjects): {few}. They have no class-1 samples, unless generation.where is everywhere: "
                "then do not use these, because they copy one subject, or lesions of other z-bins."
            )
    notes.append(
        f"To check: more than {100 * OUTSIDE_SHARE:g} % of the lesion outside the head; a lesion volume that changes "
        f"by more than {100 * VOLUME_CHANGE:g} % on the grid; no slice, or no lesion slice, in the store; lesion "
        "slices outside slices.z_range; a foreground volume more than "
        f"{ODD_DEVIATIONS:g} robust deviations from the median. None of these excludes a "
        f"participant. {MISSING}: not in the source data."
    )
    return '<ul class="notes">' + "".join(f"<li>{html_page.text(line)}</li>" for line in notes) + "</ul>"
