"""`dsrun bench export` as a user meets it: figures that agree with one another, and one message for a mistake. No test asserts a time."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dsrun.cli import app
from dsrun.deploy.folder import PROGRAM, WEIGHTS, save
from dsrun.deploy.program import build_program
from dsrun.deploy.storage import pack
from dsrun.errors import DataError, UsageError
from tests.deploy.test_folder import FEATURES, exported


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small network in float32 and in int8, with its program."""
    found = []
    for format in ("float32", "int8"):
        model = exported(format)
        size = sum(array.nbytes for own in model.arrays.values() for array in own.values())
        document = {"format": format, "granularity": None if format == "float32" else "layer", "bytes": {"this": size}}
        program = build_program(model.network, *pack(model.network, model.arrays))
        folder = tmp_path_factory.mktemp("exports") / format
        save(replace(model, document=document), folder, {PROGRAM: program}, overwrite=False)
        found.append(str(folder))
    return found


def bench(*arguments, machine=True):
    # Eight threads: the pool that the tests run with.
    found = CliRunner().invoke(app, ["bench", "export", "--threads", "8", *arguments, *(["--json"] if machine else [])])
    if found.exception:
        raise found.exception
    return json.loads(found.stdout) if machine else found.stdout


def test_every_way_of_multiplying_has_a_row_and_the_products_of_the_first_model_with_codes_stand_beside(folders):
    float32, int8 = folders
    report = bench(*folders, "--sizes", "2x12", "--repeats", "2", "--programs")
    rows = {(row["model"], row["products"]): row for row in report["rows"]}
    assert list(rows) == [
        (float32, "float32 sums"), (float32, PROGRAM), (int8, "integer"), (int8, "float32 twin"), (int8, PROGRAM),
    ]  # fmt: skip
    for row in rows.values():
        assert row["audio_seconds"] == pytest.approx(2 * 12 * FEATURES.hop / FEATURES.sample_rate)
        assert row["times_real_time"] == pytest.approx(row["audio_seconds"] / row["seconds_median"])
        assert row["compile_seconds"] > 0
    assert rows[float32, "float32 sums"]["speed_to_first"] == [1.0, 1.0, 1.0]
    products = {row["product"]: row for row in report["products"]}
    assert products["gru_0_forward.u"]["rows"] == 2, "one a frame and utterance"
    assert products["front_end.kernel"]["rows"] == 2 * 6, "of every second frame"
    for row, folder in zip(report["models"], folders, strict=True):
        assert row["file_bytes"] == (Path(folder) / WEIGHTS).stat().st_size


@pytest.mark.slow
def test_a_table_names_what_was_measured(folders):
    text = bench(*folders, "--sizes", "1x12", "--repeats", "1", machine=False)
    assert PROGRAM not in text, "only where it was asked for"
    for words in ("float32 sums", "float32 twin", "times_real_time", "1x8x24", "gru_0_forward.u"):
        assert words in text


def test_what_cannot_be_measured_is_refused(folders, tmp_path):
    with pytest.raises(UsageError, match="named twice"):
        bench(folders[0], folders[0])
    with pytest.raises(UsageError, match="no exported model"):
        bench(str(tmp_path))
    save(exported("float32"), tmp_path / "bare", {}, overwrite=False)
    with pytest.raises(DataError, match=PROGRAM):
        bench(str(tmp_path / "bare"), "--sizes", "1x12", "--programs")
    save(exported("float32"), tmp_path / "foreign", {PROGRAM: b"no program"}, overwrite=False)
    with pytest.raises(DataError, match=f"{PROGRAM}: JAX .* cannot read it"):
        bench(str(tmp_path / "foreign"), "--sizes", "1x12", "--programs")
