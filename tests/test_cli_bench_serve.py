"""`dsrun bench serve` as a user meets it: formats side by side, and one message for a mistake. No test asserts a time."""

import json
from dataclasses import replace

import pytest
import soundfile
from typer.testing import CliRunner

from dsrun.cli import app
from dsrun.deploy.folder import Exported, save
from dsrun.errors import UsageError
from dsrun.serve_tables import print_serve
from dsrun.speech import AudioSettings
from dsrun.study.serve_figure import draw_serve
from tests.deploy.networks import quantized
from tests.serving.speakers import ALPHABET, FEATURES, NORMALIZATION, RATE, SHAPE, sound, talkative


def export(folder, format, shape=SHAPE, **options):
    network, arrays = quantized(shape, format, **options)
    audio = AudioSettings(RATE, max_seconds=20.0)
    model = Exported(
        None,
        network,
        arrays,
        ALPHABET,
        FEATURES,
        NORMALIZATION,
        audio,
        20.0,
        {"format": format, "granularity": "layer"},
    )
    save(model, folder, {}, overwrite=False)
    return folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken")
    rows = []
    for seed in range(2):
        soundfile.write(folder / f"{seed}.wav", sound(0.4, seed), RATE, subtype="PCM_16")
        rows.append({"audio_filepath": f"{seed}.wav", "duration": 0.4, "text": "ab", "id": str(seed)})
    path = folder / "spoken.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def bench(*arguments):
    found = CliRunner().invoke(app, ["bench", "serve", *map(str, arguments)])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


@pytest.mark.slow
def test_a_row_for_every_number_of_streams_with_batches_and_without(manifest, tmp_path):
    model = export(tmp_path / "int8", "int8", weights=talkative)
    found = bench(
        model, "--manifest", manifest, "--streams", 2, "--seconds", 0.5, "--rounds", 2, "--chunk-ms", 60, "--json"
    )
    assert "round 2 of 2, 2 streams, without batches, int8" in found.stderr
    report = json.loads(found.stdout)
    rows = report["rows"]
    assert [(row["model"], row["streams"], row["batching"]) for row in rows] == [
        ("int8", 2, "eager"),
        ("int8", 2, "none"),
    ]
    for row in rows:
        assert row["rounds"] == 2 or not row["keeps_up"]
        assert 1.0 <= row["mean_batch"] <= 2.0
        if row["keeps_up"]:
            latency = row["latency"]
            assert 0 < latency["median_ms"] <= latency["percentile_98_ms"] <= latency["longest_ms"]
            assert row["sound_over_compute"] > 0
            assert row["median_over_first"] == [1.0] * 3
        else:
            assert row["latency"]["median_ms"] is None
    assert rows[1]["mean_batch"] == 1.0
    (model,) = report["models"]
    assert model["latency_by_design"]["chunk_ms"] == 60.0
    assert model["step_sizes"] == [1, 2]
    assert report["block_ms"] == 10.0


def latency(median=None, high=None):
    return {"count": 9 if median else 0, "median_ms": median, "percentile_98_ms": high, "longest_ms": high}


def row(model, streams, batching="eager", *, median=None, rounds_too_slow=0):
    return {
        "model": model,
        "format": model,
        "streams": streams,
        "batching": batching,
        "keeps_up": median is not None,
        "rounds": 3,
        "rounds_too_slow": rounds_too_slow,
        "too_slow": "latency grew from 5 to 900 ms" if rounds_too_slow else "",
        "latency": latency(median, median and 10 * median),
        "round_medians_ms": [median - 1.0, median + 2.0] if median else [],
        "ending": latency(median and 2 * median),
        "median_over_first": [0.9, 1.25, 1.5] if median else None,
        "mean_batch": 1.5,
        "milliseconds_a_step": 3.25,
        "busy_share": 0.5,
        "clients_share": 0.1,
        "sound_over_compute": 60.0,
    }


@pytest.fixture
def two_models():
    """float32 had a bad round with 10 streams, and cannot keep up with 30; without batches it was not tried with so many."""
    rows = [row(model, 1, median=2.0) for model in ("float32", "int8")]
    rows += [row("float32", 10, median=12.5, rounds_too_slow=1), row("int8", 10, median=4.0)]
    rows += [row("float32", 30, rounds_too_slow=2), row("int8", 30, median=9.0), row("int8", 10, "none", median=8.0)]
    model = {"path": "a", "source": None, "chunk_ms": 180.0, "step_sizes": [1, 2], "compile_seconds": 1.0}
    return {
        "machine": {"device": "cpu", "devices": 1, "threads": "8", "jax": "0"},
        "models": [model | {"name": name, "latency_by_design": {"total_ms": 800.0}} for name in ("float32", "int8")],
        "seconds_a_round": 4.0,
        "rounds": 3,
        "block_ms": 10.0,
        "rows": rows,
        "not_tried": [{"model": "float32", "streams": 30, "batching": "none"}],
        "deep_speech_2": [{"streams": 20, "median_ms": 48.0, "percentile_98_ms": 86.0}],
        "peak_memory_bytes": 10**9,
        "peak_memory_is": "of a test",
    }


def test_the_table_says_who_cannot_keep_up_instead_of_a_latency(two_models, capsys):
    print_serve(two_models)
    printed = capsys.readouterr().out
    lines = {
        tuple(line.split()[:1] + line.split()[3:4]): line for line in printed.splitlines() if "with batches" in line
    }
    assert "12.5" in lines["10", "float32"]
    assert "(11.5 to 14.5)" in lines["10", "float32"]
    assert "in 2 of 3 rounds" in lines["10", "float32"]
    assert lines["30", "float32"].split()[4] == "-"
    assert lines["30", "float32"].endswith("NO")
    assert "float32, 30 streams, with batches: cannot keep up, latency grew from 5 to 900 ms" in printed
    assert "not tried, for fewer streams were too many: float32, 30 streams, without" in printed
    assert "20 streams 48 and 86 ms" in printed


@pytest.mark.parametrize("suffix", [".svg", pytest.param(".png", marks=pytest.mark.slow)])
def test_the_figure_is_drawn_with_who_cannot_keep_up_and_the_same_again(two_models, tmp_path, suffix):
    for name in ("one", "two"):
        draw_serve(two_models, tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


@pytest.mark.slow
def test_two_formats_take_turns_and_the_second_is_compared_with_the_first(manifest, tmp_path):
    models = [export(tmp_path / format, format, weights=talkative) for format in ("float32", "int8")]
    figure = tmp_path / "serve.svg"
    found = bench(
        *models, "--manifest", manifest, "--streams", "1,2", "--seconds", 1, "--rounds", 2, "-o", figure, "--json"
    )
    rows = json.loads(found.stdout)["rows"]
    assert [(row["streams"], row["batching"], row["model"]) for row in rows] == [
        (count, kind, model)
        for count, kind in ((1, "eager"), (2, "eager"), (2, "none"))
        for model in ("float32", "int8")
    ]
    assert figure.read_text().startswith("<?xml")
    rounds = [line for line in found.stderr.splitlines() if line.startswith("round 1 of 2, 2 streams, batches")]
    assert [line.split(", ")[3].split(":")[0] for line in rounds] == ["float32", "int8"]


def test_what_cannot_be_served_is_refused_with_a_way_out(manifest, tmp_path):
    with pytest.raises(UsageError, match=r"neither a run folder.*nor an exported model"):
        bench(tmp_path)
    with pytest.raises(UsageError, match="there are float32, float16"):
        bench(tmp_path, "--format", "int9")
    for streams in ("1,0", "ten", "1001"):
        with pytest.raises(UsageError, match="numbers from 1 to 1000"):
            bench(tmp_path, "--streams", streams)
    both_ways = export(tmp_path / "both", "float32", replace(SHAPE, direction="bidirectional", lookahead=0))
    with pytest.raises(UsageError, match=r"both: cannot be served in streams.*direction: forward"):
        bench(both_ways, "--manifest", manifest)
    with pytest.raises(UsageError, match="does not exist"):
        bench(both_ways, "-o", tmp_path / "nowhere" / "a.svg")


def test_a_run_of_bidirectional_layers_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "config.yaml").write_text("base: prompts_float32.yaml\n")
    from tests.corpus import REPOSITORY

    text = (REPOSITORY / "configs" / "prompts_float32.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"bidirectional \(model.direction\).*prompts_streaming.yaml"):
        bench(tmp_path)


def test_without_a_manifest_that_is_there_one_is_asked_for(tmp_path):
    model = export(tmp_path / "model", "float32", weights=talkative)
    with pytest.raises(UsageError, match="Name one with --manifest"):
        bench(model, "--streams", "1")
    with pytest.raises(UsageError, match=r"nothing.jsonl: not there"):
        bench(model, "--streams", "1", "--manifest", tmp_path / "nothing.jsonl")
