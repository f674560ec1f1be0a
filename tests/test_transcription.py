"""Transcription of files with a network that was never trained: order, failures, chunks and batches, and the command."""

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from dsrun import build
from dsrun.cli import app
from dsrun.config import load_config
from dsrun.decoding_options import DecodingOptions
from dsrun.errors import DsrunError, UsageError
from dsrun.evaluation.evaluate import Evaluator
from dsrun.evaluation.whole_pass import trained_pass
from dsrun.model import init_parameters, initial_statistics
from dsrun.record import RunDir
from dsrun.speech import Alphabet, Normalization
from dsrun.speech.chunks import cut_into_chunks
from dsrun.trained import Trained
from dsrun.transcription import Failure, Settings, Source, Transcriber

sys.path.insert(0, str(Path(__file__).parent))
from corpus import shortest_prompts, write_config, write_rows

RATE = 16_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rows = write_rows(folder / "train.jsonl", shortest_prompts(2))
    config = load_config(write_config(folder, train=rows, dev=rows), []).config
    alphabet = Alphabet(tuple(" abcdefgh"))
    settings = build.build_model_settings(config, num_classes=alphabet.num_classes)
    # Three times what training begins with: then the classes take turns, as a trained network's do.
    weights = jax.tree.map(lambda w: 3.0 * w, init_parameters(settings, 3))
    bins = settings.num_bins
    normalization = Normalization(np.full(bins, -14.0, np.float32), np.full(bins, 3.0, np.float32))
    evaluator = Evaluator(trained_pass(settings, build.build_policy(config)))
    return Trained(
        RunDir(folder), config, 7, settings, alphabet, normalization, weights, initial_statistics(settings), evaluator
    )


def babble(seconds, seed, rate=RATE, channels=1):
    """Noise that changes its colour and level ten times a second."""
    random = np.random.default_rng(seed)
    pieces = []
    for _ in range(int(seconds * 10)):
        tone = np.sin(2 * np.pi * random.uniform(100, 3000) * np.arange(rate // 10) / rate)
        pieces.append(10 ** random.uniform(-3, -0.5) * (tone + 0.1 * random.standard_normal(rate // 10)))
    return np.repeat(np.concatenate(pieces)[:, None], channels, axis=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    for number, seconds in enumerate([1.2, 7.0, 1.0, 0.9, 2.2]):
        soundfile.write(folder / f"{number}.wav", babble(seconds, number), RATE)
    return [folder / f"{number}.wav" for number in range(5)]


def sources(paths):
    return [Source(path, path.name) for path in paths]


def transcripts(trained, paths, **settings):
    return list(Transcriber(trained.model, Settings(**{"chunk_seconds": 3.0, "rows": 2} | settings))(sources(paths)))


@pytest.fixture(scope="module")
def all_at_once(trained, files):
    return transcripts(trained, files)


def test_results_come_in_order_with_text_words_and_lengths(all_at_once):
    assert [result.file for result in all_at_once] == [f"{number}.wav" for number in range(5)]
    assert [result.chunks for result in all_at_once] == [1, 4, 1, 1, 1]
    assert [result.seconds for result in all_at_once] == [1.2, 7.0, 1.0, 0.9, 2.2]
    for result in all_at_once:
        assert result.text == " ".join(word.text for word in result.words)
        times = [time for word in result.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert 0.0 <= min(times) <= max(times) <= result.seconds
        assert all(0.0 < word.confidence <= 1.0 for word in result.words)
    assert len(set(all_at_once[1].text)) > 3


def test_a_file_alone_has_exactly_the_transcript_that_it_has_among_others(trained, files, all_at_once):
    for file, expected in zip(files, all_at_once, strict=True):
        assert transcripts(trained, [file]) == [expected]
    assert transcripts(trained, files[::-1]) == all_at_once[::-1]


def test_a_file_that_fails_in_the_middle_has_no_transcript_and_stops_nobody(trained, files, all_at_once, tmp_path):
    samples = babble(7.0, 1)
    samples[-100] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "blip.wav", samples[:100], RATE)
    results = transcripts(
        trained, [files[0], tmp_path / "nan.wav", tmp_path / "none.wav", tmp_path / "blip.wav", files[2]]
    )
    assert [results[0], results[4]] == [all_at_once[0], all_at_once[2]]
    assert all(isinstance(result, Failure) for result in results[1:4])
    assert "nan.wav: a sample at 6.99 s is NaN" in results[1].error
    assert "no such file" in results[2].error
    assert "blip.wav: 100 samples, shorter than one window of 320" in results[3].error


def test_digital_silence_is_not_shown_to_the_network_and_has_no_words(trained, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(10 * RATE), RATE)
    transcriber = Transcriber(trained.model, Settings(chunk_seconds=3.0))
    (result,) = transcriber(sources([tmp_path / "silence.wav"]))
    assert (result.text, result.words, result.seconds, result.confidence) == ("", (), 10.0, None)
    assert transcriber.recogniser.compile_seconds == 0.0


def test_a_network_whose_scores_are_not_finite_fails_file_by_file(trained, files):
    broken = replace(trained, weights=jax.tree.map(lambda w: w * np.float32(np.nan), trained.weights))
    results = transcripts(broken, files[:2])
    assert ["NaN or infinite" in result.error for result in results] == [True, True]


def test_a_file_that_failed_is_read_no_further_and_nothing_of_it_is_kept(trained, files, monkeypatch):
    broken = replace(trained, weights=jax.tree.map(lambda w: w * np.float32(np.nan), trained.weights))
    monkeypatch.setattr("dsrun.transcription.PREFETCH", 0)  # without a thread that is ahead
    cut = []

    def cut_into(samples, settings):
        for chunk in cut_into_chunks(samples, settings):
            cut.append(chunk.first_frame)
            yield chunk

    monkeypatch.setattr("dsrun.transcription.cut_into_chunks", cut_into)
    results = transcripts(broken, [files[1], files[0]], rows=1)
    assert [result.file for result in results] == ["1.wav", "0.wav"]
    assert len(cut) == 3  # the first of the long file, the one that shows that it is too late, and the short file


def test_a_batch_that_the_allocator_refuses_is_one_message_and_no_traceback(command, files, monkeypatch):
    def refuse(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4 GiB.\nmore")

    monkeypatch.setattr("dsrun.evaluation.recognise.Recogniser.__call__", refuse)
    found = command(files[0])
    assert isinstance(found.exception, UsageError)
    said = r"^out of memory while recognising 2 chunks of up to 3 s together: RESOURCE_EXHAUSTED: .* 4 GiB\. What helps"
    assert re.search(said + ": .*--batch, .*--chunk-seconds", str(found.exception))


@pytest.fixture
def command(trained, monkeypatch):
    monkeypatch.setattr("dsrun.models.load_model", lambda path, checkpoint: trained.model)

    def run(*arguments, **options):
        whole = [] if "--stream" in arguments else ["--chunk-seconds", "3"]
        arguments = ["transcribe", "RUN", *whole, "--batch", "2", *map(str, arguments)]
        return CliRunner().invoke(app, arguments, **options)

    return run


def test_any_rate_and_layout_is_converted_and_said_and_strictly_refused(command, tmp_path):
    soundfile.write(tmp_path / "a.flac", babble(1.0, 0, 44_100, channels=2), 44_100, subtype="PCM_24")
    found = command(tmp_path / "a.flac", "--json")
    assert found.exit_code == 0, found.stderr
    assert "2 channels mixed, 44100 Hz resampled to 16000" in found.stderr
    (result,) = json.loads(found.stdout)["results"]
    assert (result["sample_rate"], result["channels"], result["channel"]) == (44_100, 2, "mix")
    assert (result["resampled_to"], result["seconds"]) == (16_000, 1.0)
    assert set(result["words"][0]) == {"word", "start", "end", "confidence"}
    one = command(tmp_path / "a.flac", "--channel", 1)
    assert "channel 1 of 2" in one.stderr
    refused = command(tmp_path / "a.flac", "--strict")
    assert refused.exit_code == 3
    assert "44100 Hz, the config says 16000" in refused.stderr
    assert "2 channels, the config says mono" in refused.stderr


def test_good_files_are_printed_and_bad_ones_told_with_exit_code_3(command, files, all_at_once, tmp_path):
    found = command(files[0], tmp_path / "none.wav", files[2])
    assert found.exit_code == 3
    assert found.stdout == f"{files[0]}: {all_at_once[0].text}\n{files[2]}: {all_at_once[2].text}\n"
    assert f"{tmp_path}/none.wav: no such file.\n" in found.stderr
    assert "1 of 3 files could not be transcribed" in found.stderr
    assert "times real time" in found.stderr
    document = json.loads(command(tmp_path / "none.wav", files[0], "--json").stdout)
    assert [result["text"] for result in document["results"]] == [all_at_once[0].text]
    assert [failure["file"] for failure in document["failures"]] == [f"{tmp_path}/none.wav"]
    nothing = command(tmp_path / "none.wav", "--json")
    assert json.loads(nothing.stdout)["results"] == []
    assert "1 of 1 files could not be transcribed" in nothing.stderr
    assert "real time" not in nothing.stderr  # of nothing there is no speed


def test_paths_come_from_a_list_and_audio_from_standard_input(command, files, all_at_once, tmp_path):
    (tmp_path / "list").write_bytes(f"\ufeff{files[0]}\r\n\r\n{files[2]}\r\n".encode())
    found = command("--files-from", tmp_path / "list")
    assert [line.rpartition(": ")[2] for line in found.stdout.splitlines()] == [
        all_at_once[0].text,
        all_at_once[2].text,
    ]
    assert command("-", input=files[2].read_bytes()).stdout == f"{all_at_once[2].text}\n"
    raw = io.BytesIO()
    soundfile.write(raw, soundfile.read(files[2], dtype="int16")[0], RATE, format="RAW", subtype="PCM_16")
    assert command("-", "--raw-rate", RATE, input=raw.getvalue()).stdout == f"{all_at_once[2].text}\n"


def test_subtitles_are_printed_of_one_file_and_written_beside_several(command, files, tmp_path):
    copies = [tmp_path / "a b.wav", tmp_path / "ü.wav"]
    for copy, file in zip(copies, files[1:3], strict=True):
        copy.write_bytes(file.read_bytes())
    assert command(copies[0], "--vtt").stdout.startswith("WEBVTT\n\n00:00:")
    found = command(*copies, "--srt")
    assert found.stdout.splitlines() == [str(tmp_path / "a b.srt"), str(tmp_path / "ü.srt")]
    assert (tmp_path / "ü.srt").read_text(encoding="utf-8").startswith("1\n00:00:")
    again = command(*copies, "--srt")
    assert isinstance(again.exception, DsrunError)
    assert "there already" in str(again.exception)
    assert command(*copies, "--srt", "--overwrite").exit_code == 0
    everything = command(*copies, "--srt", "--vtt", "--json", "--output-dir", tmp_path / "new")
    assert everything.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "a b.json", "a b.srt", "a b.vtt", "ü.json", "ü.srt", "ü.vtt"
    ]  # fmt: skip


def test_beam_search_decodes_long_files_too_and_its_words_have_times(command, files):
    found = command(files[1], files[2], "--decoder", "beam", "--beam-width", 4, "--json")
    assert found.exit_code == 0, found.output
    for result in json.loads(found.stdout)["results"]:
        assert result["text"] == " ".join(word["word"] for word in result["words"])
        times = [time for word in result["words"] for time in (word["start"], word["end"])]
        assert times == sorted(times)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "nothing to transcribe"),
        (("-", "-"), "read once only"),
        (("a.wav", "--raw-rate", "8000"), "write - for that"),
        (("a.wav", "--channel", "left"), "a number from 0, or mix"),
        (("a.wav", "--strict", "--channel", "mix"), "converts nothing"),
        (
            ("a.wav", "--overlap-seconds", "2"),
            "--chunk-seconds 3 with --overlap-seconds 2: the overlap is half of a chunk at most",
        ),
        (("a.wav", "--chunk-seconds", "nan"), "--chunk-seconds nan: write a finite number"),
        (("a.wav", "--chunk-seconds", "inf"), "--chunk-seconds inf: write a finite number"),
        (("a.wav", "--chunk-seconds", "0"), "--chunk-seconds 0: a chunk is at least"),
        (("a.wav", "--chunk-seconds", "-5"), "--chunk-seconds -5: a chunk is at least"),
        ((".", "a.wav", "--srt"), ".: a folder without a name"),
        (("a.wav", "/", "--output-dir", "there"), "/: a folder without a name"),
        (("x/a.wav", "x/a.flac", "--srt"), "two recordings would be written there"),
        (("-", "a.wav", "--srt"), "name an --output-dir"),
        (("--files-from", "none"), "cannot be read as a list"),
        (("a.wav", "--stream", "--srt"), "Leave them out, or --stream"),
        (("a.wav", "--realtime"), "belong to --stream"),
        (("a.wav", "--beam-width", "8"), "--decoder beam"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(command, arguments, reason):
    found = command(*arguments)
    assert isinstance(found.exception, DsrunError), found.output
    assert found.exception.exit_code == 2
    assert reason in str(found.exception)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_options_are_finite_numbers(command, value):
    """Who refuses is typer where an option has a range, and that lets none pass."""
    for options in (["--stream", "--chunk-ms"], ["--overlap-seconds"], ["--chunk-seconds"]):
        found = command("a.wav", *options, value)
        assert getattr(found.exception, "exit_code", found.exit_code) == 2
    for weight in ("lm_weight", "word_bonus"):
        with pytest.raises(UsageError, match=f"{value}: write a finite number"):
            DecodingOptions("beam", **{weight: float(value)}).check()
