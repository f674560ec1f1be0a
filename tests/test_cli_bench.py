"""`dsrun bench` as a user meets it: figures that agree with one another, and one message for a mistake. No test asserts a time."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from corpus import REPOSITORY, plain_environment, shortest_prompts, write_config, write_rows
from test_cli import dsrun, dsrun_together, require_message

COMMANDS = ("step", "gru", "ctc", "rounding", "data", "scaling")


def bench(*arguments):
    result = dsrun("bench", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    assert result.stderr, "progress goes to stderr"
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Eight real clips in two batches of two shards, a tiny network."""
    folder = tmp_path_factory.mktemp("bench")
    train = write_rows(folder / "train.jsonl", shortest_prompts(8))
    return write_config(folder, train=train, dev=write_rows(folder / "dev.jsonl", shortest_prompts(2)))


def require_spread(row, name="seconds"):
    assert 0 < row[f"{name}_lowest"] <= row[f"{name}_median"] <= row[f"{name}_highest"]


def test_gru_has_a_row_a_format_and_pass_and_the_peak_beside_it():
    report = bench(
        "gru", "--sizes", "2x10x16", "--format", "float32", "--format", "bf16", "--repeats", 2, "--threads", 2
    )
    rows = {(row["size"], row["format"], row["pass"]): row for row in report["rows"]}
    assert len(rows) == 2 * 2
    for (size, format, name), row in rows.items():
        batch, frames, hidden = map(int, size.split("x"))
        assert row["flops"] == (24 if name == "forward" else 72) * hidden**2 * batch * frames
        assert row["sequential_share_of_flops"] == pytest.approx(1 / 2 if name == "forward" else 1 / 3)
        assert row["tflop_per_second"] == pytest.approx(row["flops"] / row["seconds_median"] / 1e12)
        assert row["microseconds_a_frame"] == pytest.approx(1e6 * row["seconds_median"] / frames)
        assert row["repeats"] == 2
        assert row["share_of_measured_peak"] > 0
        assert report["ceilings"]["products"][format]["measured_tflop_per_second"] > 0
        require_spread(row)
    assert "Precision.HIGHEST" in report["machine"]["float32_is"]
    assert set(report["loops"]) == {"float32", "bfloat16"}
    assert report["peak_memory_bytes"] > 0


def test_ctc_counts_operations_by_cell_and_bytes_of_logits():
    (row,) = bench("ctc", "--sizes", "2x20x5x7", "--repeats", 2, "--kernel", "auto")["rows"]
    assert (row["kernel"], row["lattice"]) == ("scan", "float32 mantissas with int32 exponents; two scans")
    assert row["flops"] == 2 * 20 * (8 * 11 + 6 * 7)
    assert row["bytes_lower_bound"] == 2 * 4 * 2 * 20 * 7
    require_spread(row)


def test_rounding_has_a_row_for_each_mode_of_a_format_beside_the_reference():
    report = bench("rounding", "--format", "float16", "--format", "binary", "--values", 2000, "--repeats", 2)
    rows = {row["name"]: row for row in report["rows"]}
    assert {"float16 ties_to_even", "float16 stochastic", "binary ties_to_even", report["reference"]} <= set(rows)
    assert "binary toward_zero" not in rows
    assert rows[report["reference"]]["rate_to_reference"] == 1.0
    assert all(row["bytes_lower_bound"] == 8 * 2000 for row in rows.values())
    assert report["flops"] is None


@pytest.mark.slow
def test_step_shows_where_the_time_goes(config):
    report = bench("step", "--config", config, "--batches", 2, "--repeats", 1, "--devices", 1)
    whole = report["whole"]
    names = {row["name"]: row["view"] for row in report["rows"]}
    assert {name for name, view in names.items() if view == "stages"} == {"gradient", "reduce", "optimizer"}
    assert {"front_end_forward", "gru_forward", "gru_backward", "ctc"} <= set(names)
    assert whole["hfu"] > whole["mfu"] > 0
    assert 0 < whole["padding_share_of_frames"] < 1
    assert whole["flops"] == next(row["flops"] for row in report["rows"] if row["name"] == "gradient")
    forward, backward = (
        next(r["flops"] for r in report["rows"] if r["name"] == f"gru_{d}ward") for d in ("for", "back")
    )
    assert backward == 2 * forward
    assert [(shape["frames"] > 0, shape["labels"] > 0) for shape in report["batch_shapes"]] == [(True, True)]
    assert report["features"]["audio_hours_per_second"] > 0
    require_spread(whole, "seconds_a_step")


@pytest.fixture(scope="module")
def scaling_report(config, tmp_path_factory):
    figure = tmp_path_factory.mktemp("figure") / "scaling.svg"
    arguments = ("--devices", "1,2", "--batches", 2, "--repeats", 1, "--plot", figure)
    report = bench("scaling", "--config", config, *arguments)
    return report | {"figure": figure.read_text()}


@pytest.mark.slow
def test_scaling_shows_that_one_and_two_devices_give_the_same_loss_bits(scaling_report):
    one, two = scaling_report["rows"]
    assert (one["devices"], two["devices"]) == (1, 2)
    assert scaling_report["equal_loss_bits"] is True
    assert scaling_report["losses_compared"] == 4
    assert one["last_loss_bits"] == two["last_loss_bits"]
    assert (one["speed_up"], one["efficiency"]) == (1.0, 1.0)
    assert two["efficiency"] == pytest.approx(two["speed_up"] / 2)
    assert scaling_report["devices_share_processors"] >= 1


@pytest.mark.slow
def test_scaling_has_the_tree_beside_the_librarys_sum_and_one_device_once(scaling_report):
    (two,) = scaling_report["reductions"]
    assert two["devices"] == 2
    assert two["tree_over_all_reduce"] == pytest.approx(
        two["tree_seconds_a_step_median"] / two["all_reduce_seconds_a_step_median"]
    )
    assert two["all_reduce_has_the_trees_loss_bits"] is True, "two numbers have one sum"
    assert scaling_report["all_reduce_left_out"] is None
    by_devices = {row["devices"]: row for row in scaling_report["counted"]["by_devices"]}
    assert by_devices[1]["ring"] == 0
    # A shard a device, or two: either way a device's shards are one node of the tree.
    assert two["ring_bytes_sent"] == by_devices[2]["ring"] >= 4 * 1000
    assert two["tree_bytes_sent"] == by_devices[2]["exchanged"] + by_devices[2]["gathered"]


@pytest.mark.slow
def test_scaling_models_gpus_and_says_so_in_table_and_figure(scaling_report, capsys):
    from dsrun.bench_tables import print_report

    model = scaling_report["model"]
    assert [row["devices"] for row in model["rows"]] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert model["one_device_is_measured"] is False
    assert model["rows"][0]["tree_tflop_per_second"] == pytest.approx(0.55 * 67)
    print_report(scaling_report)
    text = capsys.readouterr().out
    for words in ("tree/library", "ring_MB", "modelled, not measured", "assumed: 55%", "tree_efficiency"):
        assert words in text
    assert scaling_report["figure"].lstrip().startswith("<?xml")


@pytest.mark.slow
def test_without_repeats_scaling_runs_nothing_and_counts(config, tmp_path, scaling_report):
    report = bench("scaling", "--config", config, "--batches", 2, "--repeats", 0, "--plot", tmp_path / "model.svg")
    assert (report["rows"], report["reductions"]) == ([], [])
    assert report["counted"] == scaling_report["counted"]
    assert report["model"]["rows"] == scaling_report["model"]["rows"]


def test_data_counts_hours_of_audio_at_their_own_speed(config):
    report = bench("data", "--config", config, "--utterances", 8, "--repeats", 1)
    rows = {row["stage"]: row for row in report["rows"]}
    assert {"decode", "features", "normalize_and_mask", "batch", "load_from_cache", "loader"} <= set(rows)
    seconds = sum(row["duration"] for row in shortest_prompts(8))
    assert report["audio_seconds"] == pytest.approx(seconds)
    decode = rows["decode"]
    assert decode["audio_hours_per_second"] == pytest.approx(seconds / 3600 / decode["seconds_median"])


def test_tables_say_what_float32_is_and_what_was_measured(config):
    result = dsrun("bench", "gru", "--sizes", "1x4x8", "--repeats", 1, "--pass", "forward")
    assert result.returncode == 0, result.stderr
    for words in ("true float32", "measured in the same rounds", "of_peak", "of_copy", "peak memory", "GRU: "):
        assert words in result.stdout


MISTAKES = [
    (("gru", "--sizes", "8x200"), ("--sizes '8x200'", "BATCHxFRAMESxHIDDEN", "16x200x256")),
    (("gru", "--preset", "deepbensh"), ("'deepbensh'", "small, deepbench, deck")),
    (("gru", "--preset", "small", "--sizes", "8x200x128"), ("choose one",)),
    (("gru", "--format", "int8"), ("--format int8", "float32, tensorfloat32, bfloat16, float16")),
    (("gru", "--format", "half16"), ("unknown format 'half16'",)),
    (("gru", "--pass", "backward"), ("--pass is 'backward'", "forward, both, all")),
    (("gru", "--residuals", "drop"), ("--residuals is 'drop'", "store, recompute")),
    (("gru", "--sizes", "4096x4096x4096"), ("--sizes 4096x4096x4096 needs about 7,", "are free")),
    (("gru", "--repeats", 0), ("--repeats",)),
    (("ctc", "--sizes", "8x200x128"), ("BATCHxFRAMESxLABELSxCLASSES", "16x400x80x29")),
    (("ctc", "--sizes", "4x10x40x29"), ("40 labels in 10 frames",)),
    (("ctc", "--sizes", "9999x9999x99x9999"), ("needs about", "are free")),
    (("ctc", "--kernel", "cuda"), ("--kernel is 'cuda'", "scan, auto, mosaic")),
    (("ctc", "--kernel", "mosaic"), ("for NVIDIA GPUs", "runs on cpu here", "scan or auto")),
    (("rounding", "--format", "float17"), ("unknown format 'float17'",)),
    (("rounding", "--values", 10**13), ("--values 10000000000000 needs about", "are free")),
    (("scaling", "--config", "configs/prompts_float32.yaml", "--devices", "two"), ("--devices 'two'", "1,2,4")),
    (("scaling", "--config", "configs/prompts_float32.yaml", "--devices", "1,4"), ("--devices 4", "2 shards")),
    (("scaling", "--config", "configs/prompts_float32.yaml", "--plot", "f.pdf"), ("f.pdf", ".svg")),
    (
        ("scaling", "--config", "configs/prompts_float32.yaml", "--model-from", "pyproject.toml"),
        ("--model-from pyproject.toml", "bench scaling --json"),
    ),
    (("step", "--config", "configs/nope.yaml"), ("configs/nope.yaml",)),
    (("data", "--config", "configs/prompts_float32.yaml", "--set", "model.layers=x"), ("model.layers",)),
]


@pytest.fixture(scope="module")
def mistaken():
    """What each of the mistaken commands ended with, by its arguments."""
    return dict(zip((a for a, _ in MISTAKES), dsrun_together(*(("bench", *a) for a, _ in MISTAKES)), strict=True))


@pytest.mark.parametrize(("arguments", "parts"), MISTAKES)
def test_a_mistake_is_one_message(arguments, parts, mistaken):
    require_message(mistaken[arguments], 2, *parts)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_gives_an_example_and_needs_no_jax(command):
    code = f"import sys; sys.argv = ['dsrun', 'bench', '{command}', '--help']\nfrom dsrun.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\nassert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert f"Example: dsrun bench {command}" in " ".join(result.stdout.split())


def test_ctrl_c_ends_a_benchmark_without_a_traceback():
    command = [sys.executable, "-m", "dsrun", "bench", "gru", "--sizes", "16x200x256", "--repeats", "1000"]
    environment = plain_environment()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment
    )
    try:
        assert process.stderr is not None
        while "rounds of" not in (line := process.stderr.readline()):
            assert line, "the benchmark ended before its rounds began"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert (out, "Traceback" in err) == ("", False)
