"""Sample folders: resumed if they match, refused otherwise; every sample can be remade from its manifest row."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.call_stack import frames_of_package
from helpers.tiny_sampling import (
    CONFIG,
    EVERY_SAMPLER,
    assert_equal,
    change_settings,
    fill,
    generator_of,
    make_old,
    remake_samples,
    settings_in,
)

from slimdiff.config.generation import GenerationConfig
from slimdiff.files import read_table, write_table
from slimdiff.generation import generator as generator_module
from slimdiff.generation import samples as samples_module
from slimdiff.generation.folder import ForeignFile, Job
from slimdiff.generation.generator import Generator
from slimdiff.generation.requests import counts_of, parse_bins, read_counts, requests_of_bins
from slimdiff.generation.samples import COLUMNS, OLD_COLUMNS, Run, read_manifest, read_samples


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class DrawRecorder:
    """Records which samples a generator draws."""

    def __init__(self, generator, monkeypatch):
        self.drawn = []
        draw = generator.draw

        def recorded_draw(requests, *rest, **more):
            self.drawn += [request.id for request in requests]
            return draw(requests, *rest, **more)

        monkeypatch.setattr(generator, "draw", recorded_draw)


def test_matching_samples_are_kept(trained, tmp_path, monkeypatch):
    fill(generator_of(trained), None, tmp_path)
    before = contents(tmp_path)
    again = generator_of(trained)
    recorder = DrawRecorder(again, monkeypatch)
    fill(again, None, tmp_path)
    assert contents(tmp_path) == before
    assert recorder.drawn == []
    (tmp_path / "zbin-01.tsv").unlink()
    (tmp_path / "zbin-01.npz").write_bytes(b"half an archi")
    (tmp_path / "zbin-02.npz").unlink()
    (tmp_path / "zbin-02.tsv").unlink()
    fill(again, None, tmp_path)
    assert contents(tmp_path) == before
    assert {name[:7] for name in recorder.drawn} == {"zbin-01", "zbin-02"}


def test_further_samples_are_added_to_the_existing_ones(trained, tmp_path, monkeypatch):
    fill(generator_of(trained), None, tmp_path / "grown")
    first = read_samples(tmp_path / "grown")
    more = {"per_bin_and_class": 3, "replicas": 2}
    growing = generator_of(trained, **more)
    recorder = DrawRecorder(growing, monkeypatch)
    fill(growing, None, tmp_path / "grown")
    assert not set(recorder.drawn) & set(first.id)
    assert len(recorder.drawn) == 36 - len(first.id)
    fill(generator_of(trained, **more), None, tmp_path / "at_once")
    assert contents(tmp_path / "grown") == contents(tmp_path / "at_once")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampler": "ddim"}, "zbin-02.json: generation.sampler: expected ddim, found dpmpp_2m"),
        ({"evaluations": 5}, "zbin-02.json: generation.evaluations: expected 5, found 4"),
        ({"seed": 1}, "zbin-02.json: generation.seed: expected 1, found 0"),
        ({"spacing": "trailing"}, "zbin-02.json: generation.spacing: expected trailing, found log_snr"),
        ({"tau": 0.1}, "zbin-02.json: generation.tau: expected 0.1, found 0.0"),
        ({"binary": True}, "zbin-02.json: generation.binary: expected True, found False"),
        ({"variant_in_key": True}, "zbin-02.json: generation.variant_in_key: expected True"),
        ({"per_bin_and_class": 1}, "_00001 is none of the 2 requested ones"),
        ({"precision": "bfloat16"}, "zbin-02.json: precision: expected bfloat16, found float32"),
    ],
)
def test_a_file_of_another_configuration_is_an_error_before_drawing(trained, tmp_path, change, named):
    generator = generator_of(trained)
    # Only the last z-bin exists; the others must not be drawn before its mismatch is found.
    fill(generator, None, tmp_path, [2])
    before = contents(tmp_path)
    with pytest.raises(ForeignFile, match=r"zbin-02\.(tsv, line \d+|json)") as error:
        fill(generator_of(trained, **change), None, tmp_path)
    assert named in str(error.value)
    assert "delete the file, or choose another folder" in str(error.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("old", [False, True], ids=["", "old form"])
def test_kept_samples_keep_their_device_in_the_settings(trained, tmp_path, old):
    """A sample drawn on a GPU is still recorded as such after a CPU adds more."""
    fill(generator_of(trained), None, tmp_path, [0])
    stem = tmp_path / "zbin-00"
    first = [row["id"] for row in read_table(tmp_path / "zbin-00.tsv")]
    change_settings(stem, runs=[{"device": "cuda", "precision": "float32", "compiled": True}])
    if old:
        make_old(tmp_path)
    fill(generator_of(trained, per_bin_and_class=3), None, tmp_path, [0])
    rows, settings = read_manifest(stem)
    found = settings.runs_of([row["id"] for row in rows])
    assert {run.device for name, run in found.items() if name in first} == {"cuda"}
    assert {run.device for name, run in found.items() if name not in first} == {"cpu"}
    assert [run["device"] for run in settings_in(stem)["runs"]] == ["cuda", "cpu"]


def test_samples_of_one_run_are_recorded_without_their_ids(trained, tmp_path):
    fill(generator_of(trained, per_bin_and_class=3), None, tmp_path, [0])
    assert read_manifest(tmp_path / "zbin-00")[1].runs == [Run("cpu", "float32", False)]


def test_a_kill_between_archive_and_manifest_is_recovered_by_drawing_again(trained, tmp_path, monkeypatch):
    fill(generator_of(trained), None, tmp_path, [0])
    monkeypatch.setattr(samples_module, "write_table", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fill(generator_of(trained, per_bin_and_class=3), None, tmp_path, [0])
    monkeypatch.undo()
    fill(generator_of(trained, per_bin_and_class=3), None, tmp_path, [0])
    assert len(read_samples(tmp_path).id) == 6


def test_samples_of_another_checkpoint_are_an_error(trained, tmp_path):
    fill(generator_of(trained), None, tmp_path / "samples", [0])
    change_settings(tmp_path / "samples" / "zbin-00", checkpoint_sha256="0" * 64)
    with pytest.raises(ForeignFile, match=r"zbin-00\.json: checkpoint_sha256: expected .*, found 0000"):
        fill(generator_of(trained), None, tmp_path / "samples", [0])


def test_unreadable_or_missing_settings_are_refused(trained, tmp_path):
    fill(generator_of(trained), None, tmp_path, [0])
    whole = settings_in(tmp_path / "zbin-00")
    for text, named in (
        ("{", r"zbin-00\.json: not readable as JSON"),
        (json.dumps({"generation": {}}), r"zbin-00\.json: .* not valid in this version: expected the keys"),
        (
            json.dumps(whole | {"runs": [{"engine": 1}]}),
            r"zbin-00\.json: these settings are not valid in this version",
        ),
        (
            json.dumps(whole | {"generation": {"sampling": 3}}),
            r"zbin-00\.json: these settings are not valid in this version: generation\.sampling",
        ),
    ):
        (tmp_path / "zbin-00.json").write_text(text)
        with pytest.raises(ValueError, match=named):
            fill(generator_of(trained), None, tmp_path, [0])
    (tmp_path / "zbin-00.json").unlink()
    with pytest.raises(ForeignFile, match=r"zbin-00\.json: not found"):
        fill(generator_of(trained), None, tmp_path, [0])


def test_an_archive_that_does_not_match_its_manifest_is_an_error(trained, tmp_path):
    fill(generator_of(trained), None, tmp_path)
    shutil.copy(tmp_path / "zbin-00.npz", tmp_path / "kept")
    (tmp_path / "zbin-00.npz").write_bytes((tmp_path / "kept").read_bytes()[:200])
    with pytest.raises(ForeignFile, match=r"zbin-00\.npz: not readable"):
        fill(generator_of(trained), None, tmp_path)
    with (tmp_path / "zbin-00.npz").open("wb") as stream:
        np.savez(stream, images=np.zeros((3, 32, 32), np.float16), masks=np.zeros((3, 32, 32), np.float16))
    with pytest.raises(
        ForeignFile, match=r"expected \(4, 32, 32\) \(the rows of its manifest\), found \[\(3, 32, 32\)\]"
    ):
        fill(generator_of(trained), None, tmp_path)


def test_samples_match_a_table_of_counts(trained, tmp_path):
    rows = [
        {"z_bin": 0, "class": 0, "n": 3},
        {"z_bin": 0, "class": 1, "n": 1},
        {"z_bin": 2, "class": 1, "n": 2},
    ]
    write_table(tmp_path / "counts.tsv", rows, ("z_bin", "class", "n"))
    config = CONFIG.model_copy(update={"counts": str(tmp_path / "counts.tsv"), "replicas": 2})
    generator = Generator(trained, config)
    fill(generator, counts_of(config, 3), tmp_path / "samples")
    samples = read_samples(tmp_path / "samples", 3)
    found = {
        (b, c): int(((samples.z_bin == b) & (samples.label == c)).sum()) for b in range(3) for c in (0, 1)
    }
    assert found == {(0, 0): 6, (0, 1): 2, (1, 0): 0, (1, 1): 0, (2, 0): 0, (2, 1): 4}
    # Replicas have different noise; each sample equals that of the uniform set.
    uniform = generator_of(trained)
    fill(uniform, None, tmp_path / "uniform", [2])
    same = read_samples(tmp_path / "uniform")
    place = {name: i for i, name in enumerate(samples.id)}
    for i, name in enumerate(same.id):
        if name in place:
            assert_equal((samples.images[[place[name]]],), (same.images[[i]],))
    assert len(np.unique(samples.images.reshape(len(samples.images), -1), axis=0)) == 12


def test_a_table_with_one_row_per_slice_is_counted(tmp_path):
    rows = [{"participant": "a", "z_bin": b, "class": c} for b, c in ((0, 0), (0, 0), (1, 1))]
    write_table(tmp_path / "slices.tsv", rows, ("participant", "z_bin", "class"))
    assert read_counts(tmp_path / "slices.tsv", 2) == {(0, 0): 2, (1, 1): 1}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("z_bin\tn\n0\t3\n", "no column class"),
        ("z_bin\tclass\tn\n3\t0\t1\n", "line 2: z_bin: expected a whole number from 0 to 2, found '3'"),
        ("z_bin\tclass\tn\n0\t2\t1\n", "line 2: class: expected a whole number from 0 to 1, found '2'"),
        ("z_bin\tclass\tn\n0\t0\t2.5\n", "line 2: n: expected a whole number from 0 to 1000000, found '2.5'"),
        ("z_bin\tclass\tn\n0\t0\t-1\n", "line 2: n: expected a whole number from 0 to 1000000, found '-1'"),
        ("z_bin\tclass\tn\n0\t0\t2\n0\t0\t1\n", "line 3: duplicate z_bin 0, class 0"),
        ("z_bin\tclass\tn\n0\t0\t0\n", "expected at least one sample"),
        ("z_bin\tclass\tN\n0\t0\t50\n", "expected a column n"),
        ("z_bin\tclass\tn\n0\t0\t٣\n", "line 2: n: expected a whole number"),
        ("z_bin\tclass\tn\n", "expected at least one sample"),
        ("", "empty"),
    ],
)
def test_invalid_tables_of_counts_are_refused(tmp_path, text, named):
    (tmp_path / "counts.tsv").write_text(text)
    with pytest.raises(ValueError, match=r"counts\.tsv") as error:
        read_counts(tmp_path / "counts.tsv", 3)
    assert named in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"absent\.tsv"):
        read_counts(tmp_path / "absent.tsv", 3)


def test_z_bins_are_numbers_and_rising_ranges():
    assert parse_bins("all", 3) == [0, 1, 2]
    assert parse_bins("07", 30) == [7]
    assert parse_bins("4,0, 10-12", 30) == [4, 0, 10, 11, 12]
    for text, named in (
        ("5-3", "5-3"),
        ("", "''"),
        ("1,,2", "''"),
        ("-1", "'-1'"),
        ("3", "0 to 2"),
        ("1,0-1", "duplicate 1"),
    ):
        with pytest.raises(ValueError) as error:
            parse_bins(text, 3)
        assert named in str(error.value)


AWKWARD = {"eta": 1 / 3, "sampler": "ddim", "tau": 0.1, "binary": True}


@pytest.mark.parametrize(
    "options", [*EVERY_SAMPLER, AWKWARD], ids=["2m", "ddim-0.2", "ddim-0", "sde", "unipc", "ddpm", "awkward"]
)
def test_any_sample_is_remade_from_its_manifest_row(trained, tmp_path, options):
    """Bit for bit, from the manifest only."""
    fill(generator_of(trained, replicas=2, **options), None, tmp_path / "samples")
    stored = read_samples(tmp_path / "samples")
    ids = ["zbin-01_class-1_replica-0_00001", "zbin-01_class-0_replica-1_00000"]
    same = remake_samples(tmp_path / "samples" / "zbin-01.tsv", ids, tmp_path / "again", device="cpu")
    assert same == dict.fromkeys(ids, True)
    for name in ids:
        place = stored.id.tolist().index(name)
        with np.load(tmp_path / "again" / f"{name}.npz", allow_pickle=False) as archive:
            assert_equal(
                (archive["images"], archive["masks"]), (stored.images[[place]], stored.masks[[place]])
            )
        one, other = (
            next(row for row in read_table(path) if row["id"] == name)
            for path in (tmp_path / "again" / f"{name}.tsv", tmp_path / "samples" / "zbin-01.tsv")
        )
        assert one == other
        found, first = settings_in(tmp_path / "again" / name), settings_in(tmp_path / "samples" / "zbin-01")
        # The two folders are siblings, so the relative path to the checkpoint is the same.
        assert {key: found[key] for key in found if key != "generation"} == {
            key: first[key] for key in first if key != "generation"
        }
        changed = {key for key in found["generation"] if found["generation"][key] != first["generation"][key]}
        assert changed <= {"compile"}


@pytest.mark.parametrize("elsewhere", ["/home/anna/m.safetensors", "/anna/models/m.safetensors"])
def test_a_checkpoint_elsewhere_is_named_without_its_folders(trained, tmp_path, elsewhere):
    folder, name = tmp_path / "samples", "zbin-00_class-0_replica-0_00000"
    moved = generator_of(trained)
    moved.checkpoint = Path(elsewhere)
    fill(moved, None, folder, [0])
    assert settings_in(folder / "zbin-00")["checkpoint"] == ".../m.safetensors"
    assert "anna" not in "".join(path.read_text() for path in folder.glob("zbin-00.[jt]s*"))
    before = contents(folder)
    fill(generator_of(trained), None, folder, [0])
    assert contents(folder) == before
    manifest = folder / "zbin-00.tsv"
    with pytest.raises(FileNotFoundError, match=r"m\.safetensors: .* give its path \(--ckpt\)"):
        remake_samples(manifest, [name], tmp_path / "out", device="cpu")
    assert remake_samples(manifest, [name], tmp_path / "out", trained, device="cpu") == {name: True}


def test_remaking_a_sample_reports_what_is_missing_or_wrong(trained, tmp_path):
    fill(generator_of(trained), None, tmp_path / "samples", [0])
    manifest, name = tmp_path / "samples" / "zbin-00.tsv", "zbin-00_class-0_replica-0_00000"
    for arguments, named in (
        ((manifest, ["unknown"], tmp_path / "out"), "expected ids (--id) of its 4 samples, such as zbin-00_"),
        ((manifest, [], tmp_path / "out"), "found none"),
        ((tmp_path / "absent.tsv", [name], tmp_path / "out"), "absent.tsv: not found"),
        ((manifest, [name], tmp_path / "out", tmp_path / "absent.safetensors"), "absent.safetensors"),
        ((manifest, [name], tmp_path / "out", manifest), "not the checkpoint that drew"),
        ((manifest, [name], tmp_path / "samples"), "the folder of the manifest"),
    ):
        with pytest.raises((OSError, ValueError)) as error:
            remake_samples(*arguments)
        assert named in str(error.value)
    assert not (tmp_path / "out").exists()
    remake_samples(manifest, [name], tmp_path / "out", device="cpu")
    with pytest.raises(ForeignFile, match="exists already"):
        remake_samples(manifest, [name], tmp_path / "out", device="cpu")
    rows, whole = read_table(manifest), settings_in(manifest)
    change_settings(manifest, generation={"sampler": "euler"})
    with pytest.raises(
        ForeignFile, match=r"zbin-00: no sample can be drawn with these settings: generation\.sampler"
    ):
        remake_samples(manifest, [name], tmp_path / "other", device="cpu")
    manifest.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"zbin-00\.json: not found"):
        remake_samples(manifest, [name], tmp_path / "other", device="cpu")
    manifest.with_suffix(".json").write_text(json.dumps(whole))
    write_table(manifest, rows[:1], COLUMNS)
    with pytest.raises(
        ForeignFile, match=r"zbin-00\.npz: expected 1 samples \(the rows of its manifest\), found \[4\]"
    ):
        remake_samples(manifest, [name], tmp_path / "other", device="cpu")
    assert not (tmp_path / "other").exists()
    write_table(manifest, rows, COLUMNS)
    # Without the archive the remade sample cannot be compared.
    manifest.with_suffix(".npz").unlink()
    assert remake_samples(manifest, [name], tmp_path / "other", device="cpu") == {name: None}


OLD_OPTIONS = [
    {},
    {"sampler": "ddim", "eta": 1 / 3, "tau": 0.1, "binary": True},
    {"sampler": "ddim_ref", "eta": 0.2, "evaluations": 5, "spacing": "trailing"},
    {"sampler": "ddpm", "spacing": "trailing", "seed": 5, "variant_in_key": True},
]


@pytest.mark.parametrize("options", OLD_OPTIONS, ids=["plain", "ddim", "ddim_ref", "ddpm"])
def test_samples_of_the_old_form_are_read_resumed_and_remade(trained, tmp_path, options, monkeypatch):
    """The old form has all settings in each manifest row, and no JSON file."""
    fill(generator_of(trained, **options), None, tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    make_old(tmp_path / "old")
    assert not list((tmp_path / "old").glob("*.json"))
    new, old = (read_samples(tmp_path / name) for name in ("new", "old"))
    assert new.id.tolist() == old.id.tolist()
    assert_equal((new.images, new.masks), (old.images, old.masks))
    name = "zbin-01_class-1_replica-0_00001"
    manifest = tmp_path / "old" / "zbin-01.tsv"
    assert remake_samples(manifest, [name], tmp_path / "again", device="cpu") == {name: True}
    # Complete files are converted to the new form without drawing; other settings are refused.
    with pytest.raises(ForeignFile, match=r"zbin-00\.tsv: generation\.evaluations: expected 9"):
        fill(generator_of(trained, **options | {"evaluations": 9}), None, tmp_path / "old")
    resumed = generator_of(trained, **options)
    recorder = DrawRecorder(resumed, monkeypatch)
    fill(resumed, None, tmp_path / "old")
    assert recorder.drawn == []
    assert contents(tmp_path / "old") == contents(tmp_path / "new")


def test_rows_of_the_old_form_with_several_settings_are_refused(trained, tmp_path):
    fill(generator_of(trained), None, tmp_path, [0])
    make_old(tmp_path)
    rows = read_table(tmp_path / "zbin-00.tsv")
    rows[2]["tau"] = "0.5"
    write_table(tmp_path / "zbin-00.tsv", rows, OLD_COLUMNS)
    with pytest.raises(
        ForeignFile, match=r"zbin-00\.tsv, line 4: tau: expected 0\.0, as in line 2, found 0\.5"
    ):
        read_manifest(tmp_path / "zbin-00")


def test_the_settings_restore_the_configuration(trained, tmp_path):
    config = CONFIG.model_copy(update={"sampler": "ddim", "eta": 0.7, "spacing": "trailing", "tau": -0.05})
    fill(Generator(trained, config), None, tmp_path, [0])
    assert read_manifest(tmp_path / "zbin-00")[1].config() == config


def test_a_folder_is_drawn_from_counts(trained, tmp_path):
    config = GenerationConfig(evaluations=4, device="cpu")
    requests = requests_of_bins(config, 0, "base", [1, 2], {(1, 0): 2, (2, 1): 1, (0, 0): 9})
    job = Job(trained, config, tmp_path / "out", requests)
    rows = job.draw()
    assert [(row["z_bin"], row["class"]) for row in rows] == [(1, 0), (1, 0), (2, 1)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"zbin-{z_bin:02d}.{ending}" for z_bin in (1, 2) for ending in ("json", "npz", "tsv")
    ]
    assert job.draw() == []


def test_the_call_depth_from_command_to_network_is_nine_functions(trained, monkeypatch, tmp_path):
    """`run_stage` and `run` of the command, the functions above the thread pool, and those within a thread."""
    above, within = [], []
    progress = generator_module.tqdm

    def recorded_progress(**options):
        above.append(frames_of_package())
        return progress(**options)

    monkeypatch.setattr(generator_module, "tqdm", recorded_progress)
    generator = generator_of(trained)
    generator.network.register_forward_pre_hook(lambda module, inputs: within.append(frames_of_package()))
    fill(generator, None, tmp_path, [0])
    assert above == [["draw", "draw"]]
    assert all(names == ["draw", "dpmpp_2m", "_two_estimates", "__call__"] for names in within)
    assert len(["run_stage", "run", *above[0], *within[0], "forward"]) == 9


def test_ddim_ref_records_the_same_spacing_as_before_and_its_settings_are_read_again():
    config = GenerationConfig(sampler="ddim_ref", evaluations=50)
    assert config.spacing == "trailing"
    assert GenerationConfig.model_validate_json(config.model_dump_json()) == config
    assert GenerationConfig().spacing == "log_snr"
