"""`dsrun study magnitudes`: what it reads, chooses and draws, on a table made by hand."""

import json
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_cli import dsrun, require_message

from dsrun.errors import DataError, UsageError
from dsrun.record.magnitudes import Magnitudes, file_of, load_magnitudes, remove_magnitudes_after, watched_steps
from dsrun.study.magnitudes import layer_of, make_panels, read_step, select, tensor_rows, total_rows
from dsrun.study.plots import draw_magnitudes

PATHS = [
    *(("activation", "storage", path) for path in ("features", "front_end.output", "gru_0.output", "logits")),
    *(("error", "gradient", path) for path in ("features", "front_end.output", "gru_0.output", "logits")),
    *(("weight", "storage", path) for path in ("front_end.kernel", "gru_0_forward.w_r", "gru_0_forward.u_r")),
    *(("update", "update", path) for path in ("front_end.kernel", "gru_0_forward.w_r", "gru_0_forward.u_r")),
]


def table(step=7):
    """Eight values a tensor: two zeros, a NaN, one float32 subnormal, and four from 2**-3 to below 2**-1."""
    kind, role, path = (np.array(column) for column in zip(*PATHS, strict=True))
    ones = np.ones(len(PATHS), np.int64)
    counts = np.zeros((len(PATHS), 256), np.int64)
    counts[:, 0], counts[:, 124], counts[:, 125], counts[:, 255] = 3, 1, 3, 1
    is_update = (kind == "update").astype(np.int64)
    return Magnitudes(
        step=step, loss_scale=8.0, path=path, kind=kind, role=role, format=np.array(["float16"] * len(PATHS)),
        smallest_positive=ones * 2.0**-24, smallest_normal=ones * 2.0**-14, largest=ones * 65504.0, fields=counts,
        zeros=2 * ones, nans=ones, flushed=ones, subnormal=0 * ones, overflowed=0 * ones,
        smallest_seen=np.full(len(PATHS), 2.0**-130, np.float32), largest_seen=np.full(len(PATHS), 0.4375, np.float32),
        updates=5 * is_update, changed=4 * is_update, swallowed=is_update,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    for step in (1, 5, 7):
        table(step).save(tmp_path / "magnitudes")
    return tmp_path


def test_a_saved_table_is_read_back_and_has_the_same_bytes_again(run):
    found, steps = read_step(run, None)
    assert (found.step, steps) == (7, [1, 5, 7])
    for field in fields(Magnitudes):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(table(), field.name))
    before = file_of(run / "magnitudes", 7).read_bytes()
    found.save(run / "magnitudes")
    assert file_of(run / "magnitudes", 7).read_bytes() == before
    assert sorted(p.name for p in (run / "magnitudes").iterdir()) == [f"step_00000{n}.npz" for n in (1, 5, 7)]


def test_files_after_the_step_that_is_resumed_from_are_removed(run):
    remove_magnitudes_after(run / "magnitudes", 5)
    assert watched_steps(run / "magnitudes") == [1, 5]
    remove_magnitudes_after(run / "nothing", 5)


def test_a_damaged_file_is_named(run):
    path = file_of(run / "magnitudes", 5)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="step_000005.npz: not a whole file"):
        load_magnitudes(path)


def test_shares_are_of_the_non_zero_finite_values():
    row = tensor_rows(table(), np.array([11]))[0]
    assert (row["values"], row["zero_share"], row["nonfinite"]) == (8, 0.25, 1)
    assert (row["underflow_share"], row["log2_smallest"]) == (0.2, -130.0)
    assert (row["updates"], row["changed_share"], row["swallowed_share"]) == (5, 0.8, 0.2)
    assert row["histogram"] == [[-127, 1], [-3, 1], [-2, 3]]
    totals = {row["kind"]: row for row in total_rows(table(), np.arange(len(PATHS)))}
    assert (totals["activation"]["values"], totals["update"]["updates"]) == (32, 15)
    assert list(totals) == ["weight", "activation", "error", "update"]
    assert table().summary()["least_changed"][0] == {"path": "front_end.kernel", "changed_share": 0.8}


@pytest.mark.parametrize(
    ("path", "layer"),
    [("gru_10_backward.u_r", "gru_10"), ("gru_0.dropout", "gru_0"), ("output_kernel", "output"), ("logits", "output"),
     ("front_end.kernel_1", "front_end"), ("features", "features"), ("gru_1_forward.w_r.trace", "gru_1")],
)  # fmt: skip
def test_a_path_has_its_layer(path, layer):
    assert layer_of(path) == layer


def test_tensors_are_chosen_by_layer_whole_path_and_role():
    found = table()
    assert found.path[select(found, layer="gru_0", path=None, role="storage")].tolist() == [
        "gru_0.output", "gru_0_forward.w_r", "gru_0_forward.u_r",
    ]  # fmt: skip
    assert len(select(found, layer=None, path=r"gru_0.*\.[wu]_r", role=None)) == 4
    for options, text in (
        ({"layer": "gru_1"}, "There are features, front_end, gru_0, output"),
        ({"role": "ctc"}, "There are storage, gradient, update"),
        ({"path": "u_r"}, "matched as a whole. There are e.g. features"),
        ({"path": "("}, "not a regular expression"),
    ):
        with pytest.raises(UsageError, match=text):
            select(found, **{"layer": None, "path": None, "role": None} | options)


def test_a_layers_panels_show_what_it_reads_too(tmp_path):
    found = table()
    panels = {p.title: p for p in make_panels(found, select(found, layer="gru_0", path=None, role=None))}
    assert list(panels) == ["parameters", "inputs", "outputs", "errors", "updates"]
    assert [curve.label for curve in panels["inputs"].curves] == ["front_end.output"]
    assert panels["parameters"].curves[0].shares.tolist() == [0.2, 0.2, 0.6]
    everything = make_panels(found, np.arange(len(PATHS)))
    scaled = replace(everything[0], smallest_positive=np.nan, smallest_normal=np.nan, largest=np.nan)
    for name in ("a", "b"):
        draw_magnitudes([*everything, scaled], "a run", tmp_path / f"{name}.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_mistakes_are_one_message_and_the_command_prints_a_table(run, tmp_path):
    with pytest.raises(UsageError, match="not a run folder"):
        read_step(run / "magnitudes", None)
    with pytest.raises(UsageError, match="There are 1, 5, 7"):
        read_step(run, 6)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("")
    require_message(dsrun("study", "magnitudes", other), 2, "no step was watched", "training.watch_every_steps")
    found = dsrun("study", "magnitudes", run, "--layer", "gru_0", "--json", "-o", tmp_path / "figure.svg")
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert (report["step"], report["steps"], len(report["tensors"])) == (7, [1, 5, 7], 6)
    text = dsrun("study", "magnitudes", run, "--step", 5).stdout
    assert "step 5" in text
    assert "swallowed_share" in text
