"""Folders of samples: gone on with where they fit, refused where they do not, every sample made again from its row."""

import shutil

import numpy as np
import pytest
from helpers.tiny_sampling import CONFIG, EVERY_SAMPLER, assert_equal, generator_of

from slimdiff.config.generation import GenerationConfig
from slimdiff.files import read_table, write_table
from slimdiff.generation import samples as samples_module
from slimdiff.generation.folder import ForeignFile, draw_into, fill
from slimdiff.generation.generator import Generator
from slimdiff.generation.remake import config_of, remake
from slimdiff.generation.requests import counts_of, parse_bins, read_counts
from slimdiff.generation.samples import COLUMNS, read_samples


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Counting:
    """Which samples a generator draws."""

    def __init__(self, generator, monkeypatch):
        self.drawn = []
        draw = generator.draw

        def watched(requests, *rest, **more):
            self.drawn += [request.id for request in requests]
            return draw(requests, *rest, **more)

        monkeypatch.setattr(generator, "draw", watched)


def test_what_lies_there_and_fits_is_kept(trained, tmp_path, monkeypatch):
    fill(generator_of(trained), None, tmp_path)
    before = contents(tmp_path)
    again = generator_of(trained)
    counting = Counting(again, monkeypatch)
    fill(again, None, tmp_path)
    assert contents(tmp_path) == before
    assert counting.drawn == []
    (tmp_path / "zbin-01.tsv").unlink()
    (tmp_path / "zbin-01.npz").write_bytes(b"half an archi")
    (tmp_path / "zbin-02.npz").unlink()
    (tmp_path / "zbin-02.tsv").unlink()
    fill(again, None, tmp_path)
    assert contents(tmp_path) == before
    assert {name[:7] for name in counting.drawn} == {"zbin-01", "zbin-02"}


def test_more_of_each_are_added_to_what_is_there(trained, tmp_path, monkeypatch):
    fill(generator_of(trained), None, tmp_path / "grown")
    first = read_samples(tmp_path / "grown")
    more = {"per_bin_and_class": 3, "replicas": 2}
    growing = generator_of(trained, **more)
    counting = Counting(growing, monkeypatch)
    fill(growing, None, tmp_path / "grown")
    assert not set(counting.drawn) & set(first.id)
    assert len(counting.drawn) == 36 - len(first.id)
    fill(generator_of(trained, **more), None, tmp_path / "at_once")
    assert contents(tmp_path / "grown") == contents(tmp_path / "at_once")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampler": "ddim"}, "sampler is dpmpp_2m, asked for is ddim"),
        ({"evaluations": 5}, "evaluations is 4, asked for is 5"),
        ({"seed": 1}, "key is seed=0"),
        ({"spacing": "log_snr"}, "spacing is trailing"),
        ({"tau": 0.1}, "tau is 0, asked for is 0.1"),
        ({"binary": True}, "binary is 0"),
        ({"per_bin_and_class": 1}, "not among the 2 that are asked for"),
        ({"precision": "bfloat16"}, "precision is float32"),
    ],
)
def test_a_file_of_another_configuration_is_an_error_before_anything_is_drawn(
    trained, tmp_path, change, named
):
    generator = generator_of(trained)
    # The last z-bin alone lies there: nothing of the others may be drawn before it is found out.
    fill(generator, None, tmp_path, [2])
    before = contents(tmp_path)
    with pytest.raises(ForeignFile, match=r"zbin-02\.tsv, line \d+") as error:
        fill(generator_of(trained, **change), None, tmp_path)
    assert named in str(error.value)
    assert "delete it" in str(error.value)
    assert contents(tmp_path) == before


def test_kept_samples_keep_the_rows_that_were_written_then(trained, tmp_path):
    """A sample that a card drew does not become a CPU's when a CPU draws more beside it."""
    fill(generator_of(trained), None, tmp_path, [0])
    rows = read_table(tmp_path / "zbin-00.tsv")
    write_table(tmp_path / "zbin-00.tsv", [{**row, "device": "cuda"} for row in rows], COLUMNS)
    fill(generator_of(trained, per_bin_and_class=3), None, tmp_path, [0])
    found = {row["id"]: row["device"] for row in read_table(tmp_path / "zbin-00.tsv")}
    assert {found.pop(row["id"]) for row in rows} == {"cuda"}
    assert set(found.values()) == {"cpu"}


def test_a_kill_between_archive_and_manifest_costs_the_drawing_only(trained, tmp_path, monkeypatch):
    fill(generator_of(trained), None, tmp_path, [0])
    monkeypatch.setattr(samples_module, "write_table", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fill(generator_of(trained, per_bin_and_class=3), None, tmp_path, [0])
    monkeypatch.undo()
    fill(generator_of(trained, per_bin_and_class=3), None, tmp_path, [0])
    assert len(read_samples(tmp_path).id) == 6


def test_another_checkpoint_is_another_configuration(trained, tmp_path):
    fill(generator_of(trained), None, tmp_path / "samples", [0])
    rows = read_table(tmp_path / "samples" / "zbin-00.tsv")
    write_table(
        tmp_path / "samples" / "zbin-00.tsv",
        [{**row, "checkpoint_sha256": "0" * 64} for row in rows],
        COLUMNS,
    )
    with pytest.raises(ForeignFile, match="checkpoint_sha256"):
        fill(generator_of(trained), None, tmp_path / "samples", [0])


def test_an_archive_that_is_not_its_manifest_s_is_an_error(trained, tmp_path):
    fill(generator_of(trained), None, tmp_path)
    shutil.copy(tmp_path / "zbin-00.npz", tmp_path / "kept")
    (tmp_path / "zbin-00.npz").write_bytes((tmp_path / "kept").read_bytes()[:200])
    with pytest.raises(ForeignFile, match=r"zbin-00\.npz: not readable"):
        fill(generator_of(trained), None, tmp_path)
    with (tmp_path / "zbin-00.npz").open("wb") as stream:
        np.savez(stream, images=np.zeros((3, 32, 32), np.float16), masks=np.zeros((3, 32, 32), np.float16))
    with pytest.raises(ForeignFile, match="beside 4 manifest rows"):
        fill(generator_of(trained), None, tmp_path)


def test_a_table_of_real_counts_is_matched(trained, tmp_path):
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
    # A replica has its own noise, and a sample is the one of the uniform set.
    uniform = generator_of(trained)
    fill(uniform, None, tmp_path / "uniform", [2])
    same = read_samples(tmp_path / "uniform")
    place = {name: i for i, name in enumerate(samples.id)}
    for i, name in enumerate(same.id):
        if name in place:
            assert_equal((samples.images[[place[name]]],), (same.images[[i]],))
    assert len(np.unique(samples.images.reshape(len(samples.images), -1), axis=0)) == 12


def test_a_table_with_one_row_a_slice_is_counted(tmp_path):
    rows = [{"participant": "a", "z_bin": b, "class": c} for b, c in ((0, 0), (0, 0), (1, 1))]
    write_table(tmp_path / "slices.tsv", rows, ("participant", "z_bin", "class"))
    assert read_counts(tmp_path / "slices.tsv", 2) == {(0, 0): 2, (1, 1): 1}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("z_bin\tn\n0\t3\n", "no column class"),
        ("z_bin\tclass\tn\n3\t0\t1\n", "line 2: z_bin is '3'; a whole number from 0 to 2"),
        ("z_bin\tclass\tn\n0\t2\t1\n", "line 2: class is '2'"),
        ("z_bin\tclass\tn\n0\t0\t2.5\n", "line 2: n is '2.5'"),
        ("z_bin\tclass\tn\n0\t0\t-1\n", "line 2: n is '-1'"),
        ("z_bin\tclass\tn\n0\t0\t2\n0\t0\t1\n", "line 3: z_bin 0, class 0 stands there twice"),
        ("z_bin\tclass\tn\n0\t0\t0\n", "not one sample"),
        ("z_bin\tclass\tN\n0\t0\t50\n", "neither a column n"),
        ("z_bin\tclass\tn\n0\t0\t٣\n", "line 2: n is"),
        ("z_bin\tclass\tn\n", "not one sample"),
        ("", "empty"),
    ],
)
def test_tables_of_counts_that_cannot_be_are_refused(tmp_path, text, named):
    (tmp_path / "counts.tsv").write_text(text)
    with pytest.raises(ValueError, match=r"counts\.tsv") as error:
        read_counts(tmp_path / "counts.tsv", 3)
    assert named in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"absent\.tsv"):
        read_counts(tmp_path / "absent.tsv", 3)


def test_bins_are_numbers_and_rising_ranges():
    assert parse_bins("all", 3) == [0, 1, 2]
    assert parse_bins("07", 30) == [7]
    assert parse_bins("4,0, 10-12", 30) == [4, 0, 10, 11, 12]
    for text, named in (
        ("5-3", "5-3"),
        ("", "''"),
        ("1,,2", "''"),
        ("-1", "'-1'"),
        ("3", "0 to 2"),
        ("1,0-1", "1 stands"),
    ):
        with pytest.raises(ValueError) as error:
            parse_bins(text, 3)
        assert named in str(error.value)


AWKWARD = {"eta": 1 / 3, "sampler": "ddim", "tau": 0.1, "binary": True}


@pytest.mark.parametrize(
    "options", [*EVERY_SAMPLER, AWKWARD], ids=["2m", "ddim-0.2", "ddim-0", "sde", "unipc", "ddpm", "awkward"]
)
def test_any_sample_is_made_again_from_its_manifest_row(trained, tmp_path, options):
    """Bit for bit, in a process that knows the manifest only."""
    fill(generator_of(trained, replicas=2, **options), None, tmp_path / "samples")
    stored = read_samples(tmp_path / "samples")
    ids = ["zbin-01_class-1_replica-0_00001", "zbin-01_class-0_replica-1_00000"]
    same = remake(tmp_path / "samples" / "zbin-01.tsv", ids, tmp_path / "again", device="cpu")
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
        # From the new folder the way to the checkpoint is the same here: both lie side by side.
        assert one == other


def test_what_stops_a_sample_from_being_made_again_is_named(trained, tmp_path):
    fill(generator_of(trained), None, tmp_path / "samples", [0])
    manifest, name = tmp_path / "samples" / "zbin-00.tsv", "zbin-00_class-0_replica-0_00000"
    for arguments, named in (
        ((manifest, ["nobody"], tmp_path / "out"), "no sample nobody"),
        ((manifest, [], tmp_path / "out"), "no sample is named"),
        ((tmp_path / "absent.tsv", [name], tmp_path / "out"), "absent.tsv: no such manifest"),
        ((manifest, [name], tmp_path / "out", tmp_path / "absent.safetensors"), "absent.safetensors"),
        ((manifest, [name], tmp_path / "out", manifest), "not the checkpoint that drew"),
        ((manifest, [name], tmp_path / "samples"), "the manifest's own folder"),
    ):
        with pytest.raises((OSError, ValueError)) as error:
            remake(*arguments)
        assert named in str(error.value)
    assert not (tmp_path / "out").exists()
    remake(manifest, [name], tmp_path / "out", device="cpu")
    with pytest.raises(ForeignFile, match="lies there already"):
        remake(manifest, [name], tmp_path / "out", device="cpu")
    rows = read_table(manifest)
    write_table(manifest, [{**row, "sampler": "euler"} for row in rows], COLUMNS)
    with pytest.raises(ValueError, match=r"zbin-00\.tsv: zbin-00_.*: not a row that can be drawn: sampler"):
        remake(manifest, [name], tmp_path / "other", device="cpu")
    write_table(manifest, rows[:1], COLUMNS)
    with pytest.raises(ForeignFile, match=r"zbin-00\.npz: \[4\] samples beside 1 manifest rows"):
        remake(manifest, [name], tmp_path / "other", device="cpu")
    assert not (tmp_path / "other").exists()
    write_table(manifest, rows, COLUMNS)
    # Without the archive there is nothing to compare with.
    manifest.with_suffix(".npz").unlink()
    assert remake(manifest, [name], tmp_path / "other", device="cpu") == {name: None}


def test_a_row_gives_back_its_configuration(trained, tmp_path):
    config = CONFIG.model_copy(update={"sampler": "ddim", "eta": 0.7, "spacing": "log_snr", "tau": -0.05})
    fill(Generator(trained, config), None, tmp_path, [0])
    found = config_of(read_table(tmp_path / "zbin-00.tsv")[0], "cpu")
    for key in (
        "sampler",
        "eta",
        "spacing",
        "tau",
        "evaluations",
        "guidance",
        "background",
        "binary",
        "precision",
    ):
        assert getattr(found, key) == getattr(config, key)


def test_a_folder_is_drawn_from_counts(trained, tmp_path):
    config = GenerationConfig(evaluations=4, device="cpu")
    draw_into(trained, config, {(1, 0): 2, (2, 1): 1, (0, 0): 0}, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "zbin-01.npz",
        "zbin-01.tsv",
        "zbin-02.npz",
        "zbin-02.tsv",
    ]
    with pytest.raises(ValueError, match="z-bins 0 to 2"):
        draw_into(trained, config, {(3, 0): 2}, tmp_path / "other")
    assert not (tmp_path / "other").exists()
