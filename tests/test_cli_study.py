"""`dsrun study` as a user meets it: the known answers from the command line, and one message for a mistake."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_cli import dsrun, dsrun_together, require_message

from dsrun.study.accumulate_exhibit import accumulate_exhibit
from dsrun.study.cartoon_exhibit import cartoon_exhibit


def study(*arguments):
    result = dsrun("study", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_accumulate_gives_100_and_a_mean_of_101_and_101_and_the_uniforms_2048(tmp_path):
    report = study("accumulate", "--format", "float16", "--format", "bfloat16", "-o", tmp_path / "sums.svg")
    rows = {(row["format"], row["accumulator"], row["rounding"]): row for row in report["sums"]}
    for name, sd in (("float16", 0.229), ("bfloat16", 0.700)):
        assert rows[name, name, "ties_to_even"]["mean"] == 100.0
        assert rows[name, "float32", "ties_to_even"]["mean"] == 101.0
        row = rows[name, name, "stochastic"]
        assert row["draws"] >= 10_000
        assert abs(row["mean"] - 101.0) < 4 * sd / math.sqrt(row["draws"])
        assert row["sd"] == pytest.approx(sd, rel=0.03)
    sums = {(row["format"], row["accumulator"], row["rounding"]): row for row in report["uniforms"]}
    row = sums["float16", "float16", "ties_to_even"]
    assert (row["uniforms"], row["min"], row["max"]) == (10_000, 2048.0, 2048.0)
    predicted = [row["predicted_mean"] for row in report["random_bits"] if row["format"] == "float16"]
    assert predicted[:8] == [100.0] * 2 + [100.78125] * 2 + [100.9765625] * 4
    assert (tmp_path / "sums.svg").read_text().startswith("<?xml")
    (tmp_path / "sums.json").write_text(json.dumps(report))
    found = accumulate_exhibit(tmp_path / "sums.json")
    assert found.caption.startswith("Rounded to nearest the sum stays at 100 in float16 and bfloat16; rounded stoch")
    assert {row["panel"] for row in found.rows} == {"growth", "uniforms", "ends", "random bits"}


def test_cartoon_stops_at_the_known_places_and_three_ways_reach_three(tmp_path):
    report = study("cartoon", "--format", "float16", "--format", "bfloat16")
    final = {(row["format"], row["method"]): row["final"] for row in report["ways"]}
    assert (final["float16", "ties_to_even"], final["bfloat16", "ties_to_even"]) == (2.953125, 2.625)
    assert {final[name, way] for name in ("float16", "bfloat16") for way in ("stochastic", "master", "kahan")} == {3.0}
    (tmp_path / "cartoon.json").write_text(json.dumps(report))
    found = cartoon_exhibit(tmp_path / "cartoon.json")
    assert found.caption.startswith("Rounded to nearest the weight stalls at 2.953125 in float16 and 2.625 in bfloat16")
    last = {(row["format"], row["method"]): (row["step"], round(row["mean"], 6)) for row in found.rows}
    assert last["bfloat16", "ties_to_even"] == (2000, 2.625)
    assert all(abs(row["standard_errors_off"]) < 4 for row in report["expectation"])


def test_formats_lists_the_table_and_members_of_families():
    assert {"float16", "ternary", "mxfp4"} <= {row["format"] for row in study("formats")["formats"]}
    (row,) = study("formats", "float_e6m9")["formats"]
    assert (row["bits"], row["precision"], row["max_exponent"]) == (16, 10, 31)


def test_a_number_that_json_lacks_is_null():
    options = ("--start", 440, "--increment", 8, "--times", 9, "--draws", 9, "--uniforms", 0)
    rows = study("accumulate", "--format", "float8_e4m3fn", "--rounding", "stochastic", *options)["sums"]
    assert rows[0]["mean"] is None


MISTAKES = [
    (("accumulate", "--format", "half"), ("unknown format 'half'", "did you mean 'float16'")),
    (("accumulate", "--rounding", "nearest"), ("ambiguous", "ties_to_even or ties_to_away")),
    (("accumulate", "--rounding", "toward_zero", "--random-bits", 4), ("--random-bits belongs to stochastic",)),
    (("accumulate", "--draws", 0), ("--draws",)),
    (("accumulate", "--increment", "nan"), ("--increment nan", "finite number")),
    (("accumulate", "--increment", 1e300), ("increment 1e+300 lies beyond float32",)),
    (("cartoon", "--learning-rate", "inf"), ("--learning-rate inf", "finite number")),
    (("cartoon", "--format", "int8"), ("int8 takes its scale from all values",)),
    (("cartoon", "--rounded", "all"), ("write weight or operations",)),
    (("cartoon", "--steps", 100, "--at", 5000), ("--at 5000 lies behind the last of 100 steps",)),
    (("cartoon", "-o", "figure.pdf"), ("figure.pdf", ".png or .svg")),
    (("formats", "e4m3"), ("did you mean 'float8_e4m3fn'",)),
]


@pytest.fixture(scope="module")
def mistaken():
    """What each of the mistaken commands ended with, by its arguments."""
    return dict(zip((a for a, _ in MISTAKES), dsrun_together(*(("study", *a) for a, _ in MISTAKES)), strict=True))


@pytest.mark.parametrize(("arguments", "parts"), MISTAKES)
def test_a_mistake_is_one_message(arguments, parts, mistaken):
    require_message(mistaken[arguments], 2, *parts)


def test_a_reader_that_leaves_early_is_no_mistake():
    command = f"{sys.executable} -m dsrun study formats --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("{0\n", "")


@pytest.mark.parametrize("command", ["accumulate", "cartoon", "formats"])
def test_help_gives_an_example_and_needs_no_jax(command):
    code = f"import sys; sys.argv = ['dsrun', 'study', '{command}', '--help']\nfrom dsrun.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\nassert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert f"Example: dsrun study {command}" in " ".join(result.stdout.split())


def test_the_table_of_formats_needs_no_jax():
    code = "import sys\nfrom dsrun.study.format_table import format_rows\nprint(len(format_rows()) > 20, 'jax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout == "True False\n", result.stderr
