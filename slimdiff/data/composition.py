"""Who counts as what: patients with and without a mask, controls and excluded participants, per group and site."""

from collections import Counter
from collections.abc import Sequence

from slimdiff.data.participants import EMPTY_MASK, Participant
from slimdiff.data.sources.columns import CONTROL, meaning_of, role_of, same_word, split_word
from slimdiff.data.sources.reading import listed
from slimdiff.files import MISSING

COUNTED = ("patients with mask", "patients without mask", "controls", "excluded")
FEW_VALUES = 6
"""A column of a source with at most this many values may say the group, site or split."""


def composition(participants: Sequence[Participant]) -> list[str]:
    """Lines of text: a table of the participants, what to check, and the excluded ones with their reasons.

    A participant without a mask whose group has masks is a patient without mask; its slices are learned as lesion-free
    ones if it is included.
    """
    rows = list(participants)
    with_mask = {same_word(row.group) for row in rows if row.is_patient}
    counts = Counter((row.group, row.site, _kind(row, with_mask)) for row in rows)
    places = sorted({(group, site) for group, site, _ in counts})
    table = [("group", "site", *COUNTED)]
    table += [(*place, *(str(counts[(*place, kind)]) for kind in COUNTED)) for place in places]
    if len(places) > 1:
        totals = Counter(kind for *_, kind in counts.elements())
        table.append(("all", "", *(str(totals[kind]) for kind in COUNTED)))
    excluded = [row for row in rows if not row.included]
    return [
        "Who counts as what:",
        *_aligned(table),
        *_to_check(rows, with_mask),
        *(f"{row.participant_id}: excluded: {row.excluded}" for row in excluded),
        f"{len(rows) - len(excluded)} participants included, {len(excluded)} excluded",
    ]


def _kind(row: Participant, with_mask: set[str]) -> str:
    if not row.included:
        return COUNTED[3]
    if row.is_patient:
        return COUNTED[0]
    return COUNTED[1] if same_word(row.group) in with_mask else COUNTED[2]


def _to_check(rows: Sequence[Participant], with_mask: set[str]) -> list[str]:
    included = [row for row in rows if row.included]
    found = []
    for group in sorted({row.group for row in included if not row.is_patient}):
        members = [row for row in included if row.group == group and not row.is_patient]
        names = listed(row.participant_id for row in members)
        if same_word(group) in with_mask:
            empty = sum(EMPTY_MASK in row.further for row in members)
            why = f", of them with an empty mask: {empty}" if empty else ""
            found.append(
                f"group {group} has masks; without one, learned as lesion-free: {len(members)} ({names}){why}"
            )
        elif role_of(group) != CONTROL:
            found.append(
                f"group {group} has no mask; its members count as controls: {len(members)} ({names})"
            )
    named = Counter(row.group for row in included if not row.is_patient and role_of(row.group) == CONTROL)
    if len(named) > 1:
        sizes = ", ".join(f"{group} {count}" for group, count in sorted(named.items()))
        found.append(
            f"several groups of controls: {sizes}; {CONTROL} includes those without a mask and without a group"
        )
    scans = Counter(row.person for row in included if row.person != MISSING)
    if several := sorted(person for person, count in scans.items() if count > 1):
        found.append(
            f"persons with several scans, which are in one part of each fold: {len(several)} ({listed(several)})"
        )
    found += [
        f"column {column} is not read; it has the values {', '.join(values)}"
        for column, values in unread_columns(rows).items()
    ]
    return [f"Check: {line}" for line in found]


def unread_columns(rows: Sequence[Participant]) -> dict[str, list[str]]:
    """Columns of the source that are not read and have few values, some of them several times: column, values.

    A column whose meaning is known is not read where a column of higher rank has another value (`SYNONYMS`).
    """
    found = {}
    for column in dict.fromkeys(key for row in rows for key in row.further):
        having = [row for row in rows if row.further.get(column, MISSING) != MISSING]
        different = sorted({row.further.get(column, MISSING) for row in rows})
        meaning = meaning_of(column)
        was_read = meaning and all(
            split_word(row.further[column]) == row.split
            if meaning == "split"
            else same_word(row.further[column]) == same_word(getattr(row, meaning))
            for row in having
        )
        if not was_read and column != EMPTY_MASK and 2 <= len(different) <= min(FEW_VALUES, len(rows) - 1):
            found[column] = different
    return found


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    return [
        "  ".join(
            cell.rjust(width) if place >= 2 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
