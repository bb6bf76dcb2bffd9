"""Single slices by their names or a table: which picture is whose, at which z, with which mask."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.seals import unseal

from slimdiff.config import ConfigError, study_from_mapping
from slimdiff.config.data import DataConfig
from slimdiff.data.participants import DataError, read_participants, write_participants
from slimdiff.data.quality.measure import _depends_on
from slimdiff.data.volumes.input_fingerprint import made_of

PATTERNS = {"image": "{participant}_{z}.png", "mask": "{participant}_{z}_mask.png"}
LENGTHS = {"pixel_mm": 1.0, "distance_mm": 2.0}


def read(folder, **keys):
    """Participants by name; image, mask and other keys of data.slices, all other keys of data."""
    data = {key: keys.pop(key) for key in list(keys) if key in DataConfig.model_fields}
    slices = {**LENGTHS, **PATTERNS, **keys}
    return folder.discover(**{"source": "slices", "root": str(folder.root), "slices": slices, **data})


def read_listed(folder, *lines: str, **keys):
    """Participants of a table with these lines; every named picture exists."""
    table = folder.describe(*lines, name="slices.tsv")
    folder.add(*{word for line in lines for word in line.split() if word.endswith(".png")})
    slices = {**LENGTHS, **keys.pop("slices", {})}
    return folder.discover(source="slices", table=str(table), slices=slices, **keys)


def names(paths) -> list[str]:
    return [path.name if path else None for path in paths]


def refused(folder, *words: str, **keys) -> None:
    with pytest.raises(DataError) as caught:
        read(folder, **keys)
    assert all(word in str(caught.value) for word in words), caught.value


def test_slices_are_ordered_by_their_number_not_by_their_name(folder):
    folder.add(*(f"p1_{z}{end}.png" for z in (9, 10, 11, 8) for end in ("", "_mask")))
    row = read(folder)["p1"]
    assert names(row.stack.images) == ["p1_8.png", "p1_9.png", "p1_10.png", "p1_11.png"]
    assert names(row.stack.masks) == ["p1_8_mask.png", "p1_9_mask.png", "p1_10_mask.png", "p1_11_mask.png"]
    assert row.stack.places == (8, 9, 10, 11) and row.flags == ()
    assert row.image.name == "p1_8.png" and row.mask.name == "p1_8_mask.png"
    assert set(row.files) == set(folder.root.iterdir())


def test_zeros_before_a_number_do_not_count(folder):
    folder.add("p1_008.png", "p1_8_mask.png", "p1_009.png", "p1_09_mask.png")
    row = read(folder)["p1"]
    assert names(row.stack.masks) == ["p1_8_mask.png", "p1_09_mask.png"] and row.flags == ()


def test_participants_in_folders_and_masks_elsewhere(folder):
    for name in ("a", "a_b"):
        folder.add(*(f"images/{name}/{z}.tif" for z in (1, 2)), *(f"labels/{name}-{z}.png" for z in (1, 2)))
    rows = read(folder, image="images/{participant}/{z}.tif", mask="labels/{participant}-{z}.png")
    assert sorted(rows) == ["a", "a_b"]
    assert names(rows["a_b"].stack.masks) == ["a_b-1.png", "a_b-2.png"]


def test_named_parts_are_the_columns_of_the_participant(folder):
    folder.add(*(f"TCGA_DU_{p}_1996_{z}{end}.png" for p in (5, 6) for z in (1, 2) for end in ("", "_mask")))
    stem = "TCGA_{site}_{participant}_{year}_{z}"
    rows = read(folder, image=f"{stem}.png", mask=f"{stem}_mask.png")
    assert sorted(rows) == ["5", "6"]
    assert rows["5"].site == "DU" and rows["5"].further == {"year": "1996"} and rows["5"].group == "patient"


def test_a_part_that_occurs_twice_has_one_value(folder):
    folder.add("a/a_1.png", "a/a_2.png", "a/b_3.png", "a/a_1_mask.png", "a/a_2_mask.png")
    rows = read(
        folder, image="{participant}/{participant}_{z}.png", mask="{participant}/{participant}_{z}_mask.png"
    )
    assert names(rows["a"].stack.images) == ["a_1.png", "a_2.png"]


def test_any_text_is_a_star(folder):
    folder.add("a/scan-7_1.png", "a/scan-8_2.png", "a/x_1_mask.png", "a/y_2_mask.png")
    rows = read(folder, image="{participant}/scan*_{z}.png", mask="{participant}/*_{z}_mask.png")
    assert names(rows["a"].stack.images) == ["scan-7_1.png", "scan-8_2.png"]


def test_endings_in_capitals_and_hidden_copies(folder):
    """macOS leaves ._ files and __MACOSX beside copied ones."""
    folder.add(
        *(f"p1_{z}{end}.PNG" for z in (1, 2) for end in ("", "_mask")), "._p1_1.PNG", "._p1_1_mask.PNG"
    )
    folder.add("__MACOSX/p1_3.png")
    rows = read(folder)
    assert sorted(rows) == ["p1"] and names(rows["p1"].stack.images) == ["p1_1.PNG", "p1_2.PNG"]


def test_a_link_to_a_folder_is_followed(folder):
    folder.add("elsewhere/deep/p1_1.png", "elsewhere/deep/p1_2.png")
    folder.add("elsewhere/deep/p1_1_mask.png", "elsewhere/deep/p1_2_mask.png")
    (folder.root / "p1").symlink_to("elsewhere/deep")
    rows = read(folder, image="p1/{participant}_{z}.png", mask="p1/{participant}_{z}_mask.png")
    assert len(rows["p1"].stack.images) == 2


def test_masks_that_also_fit_the_pattern_of_images_are_masks(folder):
    folder.add("a_1.png", "a_2.png", "a_mask_1.png", "a_mask_2.png")
    rows = read(folder, mask="{participant}_mask_{z}.png")
    assert sorted(rows) == ["a"] and names(rows["a"].stack.masks) == ["a_mask_1.png", "a_mask_2.png"]


def test_images_that_also_fit_the_pattern_of_masks_are_images(folder):
    folder.add("a_1_flair.png", "a_2_flair.png", "a_1.png", "a_2.png")
    rows = read(folder, image="{participant}_{z}_flair.png", mask="{participant}_{z}*.png")
    assert names(rows["a"].stack.images) == ["a_1_flair.png", "a_2_flair.png"]
    assert names(rows["a"].stack.masks) == ["a_1.png", "a_2.png"]


def test_patterns_that_do_not_tell_images_from_masks_are_refused(folder):
    folder.add("a_1.png", "a_1_mask.png")
    refused(folder, "tell images from masks", "a_1.png", mask=PATTERNS["image"])


def test_patterns_that_take_all_masks_for_images_are_refused(folder):
    """With more letters of its own the pattern of the images counts: then none is left for the masks."""
    folder.add("a_1_mask.png", "a_2_mask.png")
    refused(
        folder,
        *("data.slices.mask", "no file", "2 files fit the patterns of images and of masks", "a_1_mask.png"),
        image="{participant}_{z}_mask.png",
        mask="{participant}_{z}*.png",
    )


def test_a_pattern_that_fits_no_file_says_what_is_there(folder):
    folder.add("sub/a-1.png", "sub/a-2.png", "notes.txt")
    refused(folder, "data.slices.image", PATTERNS["image"], "2 pictures (sub/a-1.png, sub/a-2.png)")
    folder.add("a_1.png")
    refused(folder, "data.slices.mask", PATTERNS["mask"])


def test_a_folder_without_pictures_or_no_folder(folder):
    refused(folder, "found no .png, .tif")
    refused(folder, "data.root", "found no folder", root=str(folder.root / "no"))


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{z}.png", "expected {participant}"),
        ("{participant}.png", "either {z} or {height}"),
        ("{participant}_{z}_{height}.png", "either {z} or {height}"),
        ("{participant_{z}.png", "named parts"),
        ("{participant}_{z-1}.png", "named parts"),
        ("/data/{participant}_{z}.png", "below data.root"),
        ("../{participant}_{z}.png", "below data.root"),
        ("{participant}_{z}.jpg", "a name that ends in"),
        ("{participant}_{z}", "a name that ends in"),
    ],
)
def test_patterns_that_cannot_work_are_refused_before_a_file_is_read(pattern, words):
    with pytest.raises(ConfigError, match=r"data\.slices\.image: expected") as caught:
        study_from_mapping(
            {"data": {"source": "slices", "slices": {**PATTERNS, **LENGTHS, "image": pattern}}}
        )
    assert words in str(caught.value) and pattern in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"slices": LENGTHS}, "found neither; set one"),
        ({"slices": {**PATTERNS, **LENGTHS}, "table": "t.tsv", "root": "x"}, "found both"),
        ({"slices": {**PATTERNS, **LENGTHS}}, "data.root"),
        (
            {"slices": {**PATTERNS, "distance_mm": 2}, "root": "x"},
            "expected pixel_mm or field_mm, found neither",
        ),
        (
            {"slices": {**PATTERNS, "pixel_mm": 2}, "root": "x"},
            "expected distance_mm or height_mm, found neither",
        ),
        ({"slices": {**LENGTHS, "field_mm": 3}}, "expected pixel_mm or field_mm, found both"),
        ({"slices": {**LENGTHS, "image": PATTERNS["image"]}}, "found only one of them"),
        (
            {"slices": {**LENGTHS, "image": "{participant}_{height}.png", "mask": "m"}},
            "expected {participant}",
        ),
        ({"slices": {**LENGTHS, "orientation": "LSP"}}, "orientation"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(data, words):
    with pytest.raises(ConfigError) as caught:
        study_from_mapping({"data": {"source": "slices", **data}})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "preprocess", [{"registration": {"transform": "rigid"}}, {"brain": {"method": "deepbet"}}], ids=str
)
def test_steps_that_need_true_lengths_are_refused_with_a_nominal_height(preprocess):
    slices = {**PATTERNS, "pixel_mm": 1.0, "height_mm": 36.0}
    values = {"data": {"source": "slices", "root": "x", "slices": slices}, "preprocess": preprocess}
    with pytest.raises(
        ConfigError, match=r"preprocess\..*requires true lengths.*set data\.slices\.distance_mm"
    ):
        study_from_mapping(values)
    values["data"]["slices"] = {**PATTERNS, **LENGTHS}
    assert study_from_mapping(values).data.slices.distance_mm == 2


def test_two_files_of_one_slice_are_flagged(folder, flags_of):
    folder.add("p1_1.png", "p1_01.png", "p1_2.png", "p1_1_mask.png", "p1_2_mask.png", "p1_02_mask.png")
    row = read(folder)["p1"]
    assert flags_of(row) == ["several_images", "several_masks"]
    assert "p1_01.png" in row.flags[0].reason and "slice 1" in row.flags[0].reason
    assert "p1_02_mask.png" in row.flags[1].reason


def test_a_slice_without_a_mask_is_flagged_because_its_lesion_would_be_learned_as_healthy(folder, flags_of):
    folder.add(*(f"p1_{z}.png" for z in (1, 2, 3)), "p1_2_mask.png")
    row = read(folder)["p1"]
    assert flags_of(row) == ["no_mask"]
    assert "2 of 3 slices" in row.flags[0].reason and "missing_mask: lesion_free" in row.flags[0].reason


def test_a_slice_without_a_mask_has_no_lesion_if_the_study_says_so(folder):
    folder.add(*(f"p1_{z}.png" for z in (1, 2, 3)), "p1_2_mask.png")
    row = read(folder, missing_mask="lesion_free")["p1"]
    assert names(row.stack.masks) == [None, "p1_2_mask.png", None] and row.flags == ()
    assert row.mask.name == "p1_2_mask.png" and names(row.masks) == ["p1_2_mask.png"]


def test_a_mask_without_an_image_is_flagged(folder, flags_of):
    folder.add("p1_1.png", "p1_2.png", *(f"p1_{z}_mask.png" for z in (1, 2, 3)), "p2_1_mask.png")
    rows = read(folder)
    assert flags_of(rows["p1"]) == ["missing_file"] and "p1_3_mask.png" in rows["p1"].flags[0].reason
    assert flags_of(rows["p2"]) == ["missing_file"] and rows["p2"].is_patient


@pytest.mark.parametrize(
    ("way", "group"), [(None, "patient"), ("exclude", "patient"), ("control", "control")]
)
def test_a_participant_without_any_mask_is_a_fault_excluded_or_a_control(folder, flags_of, way, group):
    folder.add("p1_1.png", "p1_2.png", "p1_1_mask.png", "p1_2_mask.png", "p2_1.png", "p2_2.png")
    row = read(folder, **({"patients_without_mask": way} if way else {}))["p2"]
    assert (row.group, row.is_patient, row.stack.masks) == (group, False, ())
    assert flags_of(row) == ([] if way else ["no_mask"])
    assert row.included == (way != "exclude")
    if not way:
        assert PATTERNS["mask"] in row.flags[0].reason


def test_a_group_in_the_name_says_who_is_a_control(folder):
    folder.add(
        "fcd/p1_1.png", "fcd/p1_2.png", "fcd/p1_1_mask.png", "fcd/p1_2_mask.png", "hc/p2_1.png", "hc/p2_2.png"
    )
    rows = read(folder, **{key: f"{{group}}/{pattern}" for key, pattern in PATTERNS.items()})
    assert (rows["p2"].group, rows["p2"].is_patient, rows["p2"].flags) == ("hc", False, ())


def test_a_participant_at_two_sites_is_refused(folder):
    folder.add("A/p1_1.png", "B/p1_2.png", "A/p1_1_mask.png", "B/p1_2_mask.png")
    keys = {key: f"{{site}}/{pattern}" for key, pattern in PATTERNS.items()}
    refused(folder, "B/p1_2.png", "expected site A", "found B", **keys)


def test_a_slice_whose_content_was_not_fetched_is_flagged(folder, flags_of):
    folder.add("p1_1.png", "p1_1_mask.png", "p1_2_mask.png")
    (folder.root / "p1_2.png").symlink_to(".git/annex/objects/Xx/Yy/MD5E-s9--abc/MD5E-s9--abc")
    row = read(folder)["p1"]
    assert flags_of(row) == ["missing_file"] and "datalad get" in row.flags[0].reason


# A table -----------------------------------------------------------------------------------------------------------


def test_a_table_has_one_row_a_slice(folder):
    rows = read_listed(
        folder,
        "participant_id image mask z group centre age thickness",
        "p1 x/b.png x/bm.png 2 FCD Bonn 31 1.5",
        "p1 x/a.png n/a 1 FCD Bonn 31 2.5",
        "p2 x/c.png n/a 1.0 hc Bonn 40 1.5",
        "p2 x/d.png n/a 2.0 hc Bonn 40 1.5",
        slices={"missing_mask": "lesion_free"},
    )
    one, two = rows["p1"], rows["p2"]
    assert names(one.stack.images) == ["a.png", "b.png"] and names(one.stack.masks) == [None, "bm.png"]
    assert (one.group, one.site, two.group, two.is_patient) == ("FCD", "Bonn", "hc", False)
    # A column that differs between slices says nothing about the participant.
    assert one.further == {"centre": "Bonn", "age": "31", "thickness": "n/a"}
    assert one.flags == two.flags == () and one.image == folder.root / "x/a.png"


def test_a_table_with_relative_heights(folder):
    lines = ["participant_id image mask Height", "p1 a.png am.png 0.75", "p1 b.png bm.png .25"]
    row = read_listed(folder, *lines, slices={"distance_mm": None, "height_mm": 100})["p1"]
    assert row.stack.relative and row.stack.places == (0.25, 0.75) and row.image.name == "b.png"
    with pytest.raises(DataError, match=r"data\.slices\.height_mm: relative heights"):
        read_listed(folder, *lines)


def test_a_table_in_which_a_patient_has_no_mask_excludes_it(folder):
    lines = ["participant_id image mask z group", "p1 a.png am.png 1 fcd", "p1 b.png bm.png 2 fcd"]
    rows = read_listed(folder, *lines, "p2 c.png n/a 1 fcd", "p2 d.png n/a 2 fcd")
    assert not rows["p2"].included and "others of group fcd" in rows["p2"].excluded


def test_files_of_a_table_that_do_not_exist_are_flagged(folder, flags_of):
    table = folder.describe(
        "participant_id image mask z", "p1 a.png am.png 1", "p1 b.png bm.png 2", name="slices.tsv"
    )
    folder.add("a.png", "am.png", "b.png")
    row = folder.discover(source="slices", table=str(table), slices=LENGTHS)["p1"]
    assert flags_of(row) == ["missing_file"] and "bm.png not found" in row.flags[0].reason


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["participant_id image mask", "p1 a.png am.png"], "expected a column z, or a column height"),
        (["participant_id image mask z height", "p1 a.png am.png 1 0.5"], "found both"),
        (["participant_id image mask z", "p1 a.png am.png 1.5"], "line 2: column z: expected a whole number"),
        (["participant_id image mask z", "p1 a.png am.png n/a"], "line 2: column z: expected a whole number"),
        (
            ["participant_id image mask height", "p1 a.png am.png 1.5"],
            "a relative height from 0 to 1, found '1.5'",
        ),
        (["participant_id image mask z", "p1 n/a am.png 1"], "line 2: expected a path in column image of p1"),
        (["participant_id mask z", "p1 am.png 1"], "no column image"),
        (
            ["participant_id image mask z group", "p1 a.png am.png 1 fcd", "p1 b.png bm.png 2 hc"],
            "line 3: expected group fcd, as in other slices of p1, found hc",
        ),
    ],
)
def test_tables_that_cannot_be_used_are_refused_with_their_line(folder, lines, words):
    with pytest.raises(DataError) as caught:
        read_listed(folder, *lines, slices={"distance_mm": None, "height_mm": 100})
    assert "slices.tsv" in str(caught.value) and words in str(caught.value)


# The table of participants -----------------------------------------------------------------------------------------


def test_the_table_of_participants_keeps_every_slice(folder):
    folder.add(*(f"in/p1_{z}.png" for z in (1, 2, 3)), "out/p1_2_mask.png", "in/p2_1.png", "in/p2_2.png")
    rows = read(
        folder,
        image="in/{participant}_{z}.png",
        mask="out/{participant}_{z}_mask.png",
        missing_mask="lesion_free",
        patients_without_mask="control",
        channel=2,
    )
    write_participants(folder.root / "participants.tsv", rows.values())
    assert read_participants(folder.root / "participants.tsv") == list(rows.values())


def test_relative_and_absolute_paths_in_one_table(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder.add("a.png", "am.png", "b.png", "bm.png")
    lines = ["participant_id image mask z", "p1 a.png am.png 1", f"p1 {tmp_path / 'b.png'} bm.png 2"]
    Path("t.tsv").write_text("\n".join(line.replace(" ", "\t") for line in lines) + "\n")
    rows = folder.discover(source="slices", table="t.tsv", slices=LENGTHS)
    write_participants(Path("participants.tsv"), rows.values())
    assert read_participants(Path("participants.tsv")) == list(rows.values())


def test_a_damaged_list_of_slices_is_named(folder):
    folder.add("p1_1.png", "p1_2.png", "p1_1_mask.png", "p1_2_mask.png")
    path = folder.root / "participants.tsv"
    write_participants(path, read(folder).values())
    path.write_text(path.read_text().replace('"slice_files"', '"slice_fil"'))
    unseal(path)
    with pytest.raises(ValueError, match=r"p1: expected a JSON object of slices in column slice_files"):
        read_participants(path)


def test_another_length_or_channel_makes_the_volume_again_but_another_pattern_of_the_same_files_does_not(
    folder,
):
    folder.add("p1_1.png", "p1_2.png", "p1_1_mask.png", "p1_2_mask.png")
    data = DataConfig()
    row = read(folder)["p1"]
    made, measured = made_of(row, "settings"), _depends_on(row, data)

    same = read(folder, image="{participant}_*{z}.png")["p1"]
    assert (made_of(same, "settings"), _depends_on(same, data)) == (made, measured)
    for change in (
        {"pixel_mm": 2.0},
        {"distance_mm": 3.0},
        {"orientation": "RPS"},
        {"channel": 1},
        {"gaps": "nearest"},
    ):
        other = read(folder, **change)["p1"]
        assert made_of(other, "settings") != made and _depends_on(other, data) != measured, change


def test_a_slice_that_is_added_or_edited_makes_the_volume_again(folder):
    folder.add("p1_1.png", "p1_2.png", "p1_1_mask.png", "p1_2_mask.png")
    row, data = read(folder)["p1"], DataConfig()
    made, measured = made_of(row, "settings"), _depends_on(row, data)
    os.utime(folder.root / "p1_2_mask.png", ns=(1, 1))
    assert _depends_on(row, data) != measured
    folder.add("p1_3.png", "p1_3_mask.png")
    assert made_of(read(folder)["p1"], "settings") != made


def test_a_participant_whose_masks_are_empty_keeps_its_slices_as_a_control(folder, tmp_path):
    """`data.empty_mask: control`: the fingerprint of the control is that of the participant as discovered."""
    folder.add("p1_1.png", "p1_2.png", "p1_1_mask.png", "p1_2_mask.png")
    row = read(folder)["p1"]
    control = replace(row, mask=None, further={"empty_mask": str(row.mask)})
    write_participants(tmp_path / "participants.tsv", [control])
    again = read_participants(tmp_path / "participants.tsv")[0]
    assert again == control and made_of(again, "s") == made_of(row, "s")
    assert names(again.files) == ["p1_1.png", "p1_2.png"]
