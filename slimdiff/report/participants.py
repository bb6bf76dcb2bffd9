"""The table of participants: folds, lesion volume, number of slices, and what looks unusual."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from slimdiff.data.participants import Participant
from slimdiff.data.store import FEWEST_LESION_SUBJECTS, SliceStore
from slimdiff.files import MISSING, read_object
from slimdiff.report import html_page

OUTSIDE_SHARE = 0.05
VOLUME_CHANGE = 0.2
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


def flags(
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
    head = (
        "<tr><th>participant</th><th>group</th><th>acquisition</th><th>site</th><th>lobe</th>"
        + "".join(f"<th>fold {fold}</th>" for fold in range(len(splits)))
        + '<th class="number">lesion, source [ml]</th><th class="number">on the grid [ml]</th>'
        '<th class="number">slices</th><th class="number">with lesion</th>'
        '<th class="number">lesion too small</th><th>source voxel [mm]</th>'
        "<th>axes</th><th>flags</th></tr>"
    )
    odd = odd_sizes(records)
    small = store.facts.get("dropped_small_lesion", {})
    outside = store.facts.get("lesion_outside_z_range", {})
    where = [{name: part for part, names in split.items() for name in names} for split in splits]
    body = []
    for person in people:
        name = person.participant_id
        cells = [f'<th scope="row">{html_page.text(name)}</th>']
        cells += [
            f"<td>{html_page.text(v)}</td>"
            for v in (person.group, person.acquisition, person.site, person.lobe)
        ]
        cells += [f"<td>{html_page.text(own.get(name, '–'))}</td>" for own in where]
        if not person.included or name not in records:
            reason = f"excluded: {person.excluded}" if not person.included else "no preprocess record"
            body.append(
                f'<tr>{"".join(cells)}<td class="wrap alarm" colspan="8">{html_page.text(reason)}</td></tr>'
            )
            continue
        qc = records[name]["qc"]
        rows = store.rows_of([name])
        lesioned = int((store.label[rows] == 1).sum())
        volumes = [
            f"{qc[key]:.2f}" if person.is_patient else "–" for key in ("lesion_ml_source", "lesion_ml_grid")
        ]
        cells += [
            f'<td class="number">{value}</td>'
            for value in (*volumes, len(rows), lesioned, small.get(name, 0))
        ]
        voxel = " × ".join(f"{edge:.3g}" for edge in qc["source_spacing_mm"])
        cells.append(f"<td>{voxel}</td><td>{html_page.text(qc['source_orientation'])}</td>")
        found = flags(person, qc, len(rows), lesioned, name in odd, outside.get(name, 0))
        cells.append(f'<td class="wrap alarm">{html_page.text("; ".join(found))}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return html_page.table(head, body) + _summary(people, splits, store)


def _summary(people: Sequence[Participant], splits: Sequence[dict[str, list[str]]], store: SliceStore) -> str:
    included = [p for p in people if p.included]
    patients = {p.participant_id for p in included if p.is_patient}
    notes = [
        f"{len(included)} participants in the study, {len(patients)} with a lesion mask; "
        f"{len(people) - len(included)} excluded. {len(store)} slices at {store.spacing_mm:g} mm, "
        f"{int((store.label == 1).sum())} with a lesion; {sum(store.facts['dropped'].values())} dropped: "
        f"{store.facts['dropped']['lesion_too_small']} with a lesion under {store.facts['min_lesion_px']} px, "
        f"{store.facts['dropped']['too_little_tissue']} with too little tissue."
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
        notes.append(f"Fold {fold}, subjects: {', '.join(parts)}.")
        if few := store.few_lesions(split["train"]):
            notes.append(
                f"Fold {fold}: z-bins in which fewer than {FEWEST_LESION_SUBJECTS} training subjects have a lesion "
                f"(number of subjects): {few}. They have no class-1 samples, unless generation.where is everywhere: "
                "then do not use these, because they copy one subject, or lesions of other z-bins."
            )
    notes.append(
        f"Flags: more than {100 * OUTSIDE_SHARE:g} % of the lesion outside the head; a lesion volume that changes by "
        f"more than {100 * VOLUME_CHANGE:g} % on the grid; no slice, or no lesion slice, in the store; lesion slices "
        "outside slices.z_range; a foreground volume more than "
        f"{ODD_DEVIATIONS:g} robust deviations from the median. A flag is a request to check; it excludes no "
        f"participant. {MISSING}: not in the source data."
    )
    return '<ul class="notes">' + "".join(f"<li>{html_page.text(line)}</li>" for line in notes) + "</ul>"
