"""The talk's two examples as exhibits: drawn from JSON documents alone, with captions that follow them."""

import json
import subprocess
import sys

import pytest

from dsrun.errors import DataError
from dsrun.study.accumulate_exhibit import accumulate_exhibit
from dsrun.study.cartoon_exhibit import cartoon_exhibit
from tests.study.figure_checks import check_figure

FINAL = {"float16": 2.953125, "bfloat16": 2.625}


def cartoon_document():
    """Ways of 1200 steps as the command tells them, by hand: nearest stops, the others arrive."""
    steps = [1, 10, 100, 1200]
    ways, trajectories = [], []
    for name, stall in FINAL.items():
        for method in ("ties_to_even", "stochastic", "master", "kahan"):
            final = stall if method == "ties_to_even" else 3.0
            about = {"format": name, "method": method, "start": 0.0, "draws": 30 if method == "stochastic" else 1}
            real = [3 - 3 * 0.98**step for step in steps]
            sd = [0.01 if method == "stochastic" else 0.0] * 4
            ways.append(about | {"final": final})
            mean = [min(w, final) for w in real[:-1]] + [final]
            trajectories.append(about | {"steps": steps, "real": real, "mean": mean, "sd": sd})
    return {"learning_rate": 0.01, "steps": 1200, "ways": ways, "trajectories": trajectories}


def sums_document():
    """Sums of 100 additions, by hand: nearest stays, stochastic rounding and float32 do not."""
    sums, growth, bits, uniforms, uniform_growth = [], [], [], [], []
    for name in FINAL:
        for mode, mean in (("ties_to_even", 100.0), ("stochastic", 101.0), ("once", 101.0)):
            about = {"format": name, "rounding": "ties_to_even" if mode == "once" else mode}
            spread = 0.2 if mode == "stochastic" else 0.0
            row = {
                "mean": mean,
                "sd": spread,
                "standard_error": spread / 40,
                "min": mean - 3 * spread,
                "max": mean + 3 * spread,
            }
            accumulator = "float32" if mode == "once" else name
            sums.append(about | row | {"accumulator": accumulator, "at_start": float(mean == 100.0)})
            uniforms.append(about | {"accumulator": accumulator, "uniforms": 600, "mean": 256.0, "exact_mean": 300.0})
            if mode == "once":
                continue
            growth.append(
                about | {"additions": [0, 100], "real": [100.0, 101.0], "mean": [100.0, mean], "sd": [0.0, spread]}
            )
            uniform_growth.append(about | {"additions": [0, 600], "real": [0.0, 300.0], "mean": [0.0, 256.0]})
        for n in range(1, 6):
            mean = 101.0 if n > 2 else 100.0
            bits.append(
                {"format": name, "random_bits": n, "mean": mean, "standard_error": 0.01, "predicted_mean": mean}
            )
    parts = {
        "sums": sums,
        "growth": growth,
        "random_bits": bits,
        "uniforms": uniforms,
        "uniform_growth": uniform_growth,
    }
    return {"start": 100.0, "increment": 0.01, "times": 100} | parts


@pytest.fixture
def documents(tmp_path):
    """Files as the two commands leave them; that theirs can be drawn too is tested with the commands (test_cli_study.py)."""
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "cartoon.json").write_text(json.dumps(cartoon_document()))
    (folder / "accumulate.json").write_text(json.dumps(sums_document()))
    return folder


def changed(documents, tmp_path, name, change):
    document = json.loads((documents / name).read_text())
    change(document)
    path = tmp_path / name
    path.write_text(json.dumps(document))
    return path


def test_the_cartoon_says_where_nearest_stalls_and_that_the_others_arrive(documents):
    found = cartoon_exhibit(documents / "cartoon.json")
    assert found.caption.startswith("Rounded to nearest the weight stalls at 2.953125 in float16 and 2.625 in bfloat16")
    for name in ("Stochastic rounding", "A float32 master", "Kahan's sum"):
        assert f"{name} arrives at 3 in every format." in found.caption
    last = [row for row in found.rows if (row["format"], row["method"]) == ("bfloat16", "ties_to_even")][-1]
    assert (last["step"], last["mean"]) == (1200, 2.625)


def test_the_cartoon_of_weights_that_arrive_says_so(documents, tmp_path):
    def arrive(document):
        for way in document["ways"]:
            way["final"] = 3.0

    found = cartoon_exhibit(changed(documents, tmp_path, "cartoon.json", arrive))
    assert found.caption.startswith("Rounded to nearest the weight arrives at 3 in every format.")


def test_the_sums_say_100_and_101(documents):
    found = accumulate_exhibit(documents / "accumulate.json")
    assert found.title == "100 + 100 x 0.01 in small formats"
    assert found.caption.startswith(
        "Rounded to nearest the sum stays at 100 in float16 and bfloat16; rounded stochastically its mean is 1"
    )
    assert "real numbers give 101." in found.caption
    assert "rounded once at the end it is 101 in float16 and 101 in bfloat16" in found.caption
    assert (
        "random bits from which on the mean is within two standard errors of that: 3 in float16 and 3 in bfloat16"
        in found.caption
    )
    assert {row["panel"] for row in found.rows} == {"growth", "uniforms", "ends", "random bits"}


def test_a_sum_that_moves_is_not_said_to_stay(documents, tmp_path):
    def move(document):
        document["sums"][0] |= {"mean": 107.0, "at_start": 0.0}

    found = accumulate_exhibit(changed(documents, tmp_path, "accumulate.json", move))
    assert "rounded to nearest it gives 107 in float16" in found.caption


@pytest.mark.parametrize("exhibit", [cartoon_exhibit, accumulate_exhibit])
def test_letters_keep_apart_at_both_widths(documents, exhibit):
    check_figure(exhibit(documents / f"{exhibit.__name__.split('_')[0]}.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read .* dsrun study cartoon --json > cartoon.json"),
        ("{", "no JSON document"),
        ("[]", "ways, trajectories, learning_rate, steps missing"),
        ('{"ways": [], "learning_rate": 0.01, "steps": 3}', "trajectories missing"),
    ],
)
def test_a_file_that_is_no_such_document_is_named_with_the_command_that_makes_one(text, message, tmp_path):
    path = tmp_path / "cartoon.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        cartoon_exhibit(path)


def test_drawing_from_a_document_needs_no_jax(documents):
    code = "import sys; from pathlib import Path\nfrom dsrun.study.cartoon_exhibit import cartoon_exhibit\n"
    code += f"cartoon_exhibit(Path({str(documents / 'cartoon.json')!r}))\nprint('jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert found.stdout == "False\n", found.stderr
