"""`dsrun transcribe --stream`: the text of the whole pass, early, with the delay that is stated."""

import io
import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import dsrun.streaming
from dsrun import build
from dsrun.cli import app
from dsrun.cli_stream import latency_line
from dsrun.config import load_config
from dsrun.errors import UsageError
from dsrun.evaluation.evaluate import Evaluator
from dsrun.evaluation.whole_pass import trained_pass
from dsrun.model import FrameStackSettings, ModelSettings, init_parameters, initial_statistics
from dsrun.record import RunDir
from dsrun.speech import Alphabet, FeatureSettings, Normalization
from dsrun.speech.live import LiveAudio, live_file
from dsrun.streaming import LATEST_CALLS, Computing, StreamRecogniser, paced, stream_latency
from dsrun.trained import Trained
from dsrun.transcription import LONGEST_CHUNK

CONFIG = "configs/prompts_streaming.yaml"
RATE = 16_000
SECONDS = 2
# Another tone every 100 ms, so that the network has something to answer to.
TONES = np.random.default_rng(3).uniform(100, 7000, 10 * SECONDS).repeat(RATE // 10)
CLIP = (0.4 * np.sin(2 * np.pi * np.cumsum(TONES) / RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def trained(request):
    """A run that was never trained: its texts are noise, and as many as one likes."""
    config = load_config(request.config.rootpath / CONFIG, ["model.hidden=16", "model.layers=1"]).config
    alphabet = Alphabet(tuple(" abcdefg"))
    settings = build.build_model_settings(config, num_classes=alphabet.num_classes)
    policy = build.build_policy(config)
    parameters = init_parameters(settings, 1)
    random = np.random.default_rng(0)
    parameters["output_kernel"] = jnp.asarray(random.standard_normal((16, 9)), jnp.float32)
    parameters["lookahead_kernel"] = jnp.asarray(random.standard_normal((21, 16)), jnp.float32)
    return Trained(
        run=RunDir(Path("runs/noise")),
        config=config,
        step=7,
        settings=settings,
        alphabet=alphabet,
        normalization=Normalization(np.full(161, -12.0, np.float32), np.full(161, 2.0, np.float32)),
        weights=parameters,
        statistics=initial_statistics(settings),
        evaluator=Evaluator(trained_pass(settings, policy)),
    )


@pytest.fixture(scope="module")
def recogniser(trained):
    return StreamRecogniser(trained.model, chunk_ms=200)


def text_of_the_whole_pass(trained, clip):
    features = trained.normalization.apply(build.build_features(trained.config).compute(clip))
    batch = SimpleNamespace(
        features=features[None],
        num_frames=np.int32([len(features)]),
        labels=np.zeros((1, 1), np.int32),
        num_labels=np.zeros(1, np.int32),
    )
    (text,) = trained.evaluator.decode(trained.weights, trained.statistics, batch, trained.alphabet)
    assert len(text) > 5
    return text


@pytest.fixture(scope="module")
def whole_text(trained):
    return text_of_the_whole_pass(trained, CLIP)


@pytest.mark.parametrize("size", [100, 2880, len(CLIP)])
def test_pieces_of_sound_give_the_text_of_the_whole_pass_and_never_take_a_letter_back(recogniser, whole_text, size):
    recogniser.restart()
    texts = []
    for start in range(0, len(CLIP), size):
        texts.append((texts[-1] if texts else "") + recogniser.hear(CLIP[start : start + size]))
        assert texts[-1] == recogniser.text
    texts.append(texts[-1] + recogniser.finish())
    assert texts[-1] == recogniser.text
    assert texts[-1] == whole_text
    if size < len(CLIP):
        assert texts[-2]  # some of it before the end


@pytest.mark.slow
def test_a_recording_that_transcribe_would_cut_gives_the_text_of_the_whole_pass_too(trained, recogniser):
    clip = np.tile(CLIP, int(LONGEST_CHUNK / SECONDS) + 1)
    recogniser.restart()
    recogniser.hear(clip)
    recogniser.finish()
    assert recogniser.text == text_of_the_whole_pass(trained, clip)


def test_latency_is_the_sum_of_what_is_waited_for(recogniser):
    """Chunk: 6 output frames of 30 ms, the most that 200 ms hold. Stack of 5 frames: 2 later ones. Lookahead: 20 output frames."""
    assert recogniser.latency.to_json() == {
        "chunk_ms": 180.0,
        "window_ms": 20.0,
        "front_end_ms": 20.0,
        "lookahead_ms": 600.0,
        "total_ms": 820.0,
    }


def test_logits_are_there_when_the_stated_latency_has_passed(trained):
    recogniser = StreamRecogniser(trained.model, chunk_ms=90)
    for spoken in range(80, len(CLIP), 80):  # 5 ms at a time
        recogniser.hear(CLIP[spoken - 80 : spoken])
        due = (1000.0 * spoken / RATE - recogniser.latency.total) / 30.0  # output frames that began so long ago
        assert recogniser.logits_given >= due
    assert recogniser.logits_given > 0


@pytest.mark.parametrize(("rate", "chunk_ms"), [(RATE, 200), (22_050, 90)])
def test_the_stated_latency_is_kept_in_the_blocks_in_which_files_are_read(
    trained, monkeypatch, tmp_path, rate, chunk_ms
):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.tile(CLIP, 2)[: SECONDS * rate], rate, subtype="FLOAT")
    spoken, given = [], []

    def listening(path, *, block_seconds):
        audio = live_file(path, block_seconds=block_seconds)

        def blocks():
            for block in audio.blocks:
                given.append(recognisers[0].logits_given)  # until this block's last sample is spoken
                spoken.append(len(block) / rate + (spoken[-1] if spoken else 0.0))
                yield block

        return replace(audio, blocks=blocks())

    recognisers = []

    class Seen(StreamRecogniser):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            recognisers.append(self)

    monkeypatch.setattr("dsrun.streaming.load_model", lambda path, checkpoint: trained.model)
    monkeypatch.setattr("dsrun.streaming.live_file", listening)
    monkeypatch.setattr("dsrun.streaming.StreamRecogniser", Seen)
    report = dsrun.streaming.stream_file(
        path, path, checkpoint="best", chunk_ms=chunk_ms, resample=True, channel=None, raw_rate=None, is_paced=False,
        pipe=io.BytesIO(), on_text=lambda text, seconds: None,
    )  # fmt: skip
    due = (1000.0 * np.array(spoken) - report["latency"]["total_ms"]) / 30.0  # output frames that began so long ago
    assert (np.array(given) >= due - 1e-9).all()
    assert given[-1] > 20


def test_windows_that_do_not_end_with_a_hop_wait_for_the_next():
    settings = ModelSettings(161, 9, FrameStackSettings(3, 2, 8), 8, 1, "forward", "none", 0.0, 20.0)
    features = FeatureSettings("log_spectrogram", RATE, window_ms=25.0)
    assert stream_latency(settings, features, chunk=1).window == 30.0


def test_a_chunk_is_at_least_one_output_frame_and_never_longer_than_asked_for_beyond():
    settings = ModelSettings(161, 9, FrameStackSettings(3, 2, 8), 8, 1, "forward", "none", 0.0, 20.0)
    features = FeatureSettings("log_spectrogram", RATE)
    assert stream_latency(settings, features, chunk=1).to_json()["total_ms"] == 20 + 20 + 10
    ahead = stream_latency(replace(settings, lookahead=5), features, chunk=1)
    assert (ahead.lookahead, ahead.total) == (100.0, 150.0)


def test_a_bidirectional_network_is_refused_with_the_reason_and_the_way_out(trained):
    other = replace(trained, settings=replace(trained.settings, direction="bidirectional")).model
    with pytest.raises(UsageError, match="runs/noise.*bidirectional.*direction: forward"):
        StreamRecogniser(other, chunk_ms=200)


def test_a_paced_file_comes_at_the_speed_of_sound(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(dsrun.streaming.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(dsrun.streaming.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    blocks = [np.zeros((RATE // 10, 1), np.float32)] * 3
    times = []
    for _ in paced(LiveAudio("-", RATE, 1, iter(blocks))).blocks:
        times.append(clock[0])
        clock[0] += 0.02  # what whoever hears it takes does not add up
    np.testing.assert_allclose(times, [0.1, 0.2, 0.3])


# --- the command ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, trained, tmp_path):
    """`dsrun transcribe` of that run; the clip as a file of 32-bit floats."""
    monkeypatch.setattr("dsrun.streaming.load_model", lambda path, checkpoint: trained.model)
    path = tmp_path / "clip.wav"
    soundfile.write(path, CLIP, RATE, subtype="FLOAT")
    return lambda *arguments, **options: CliRunner().invoke(
        app, ["transcribe", "RUN", *(str(path) if a == "CLIP" else a for a in arguments)], **options
    )


def test_the_command_prints_the_text_alone_and_its_latency_to_stderr(command, whole_text):
    result = command("CLIP", "--stream")
    assert result.exit_code == 0
    assert result.stdout == whole_text + "\n"
    assert result.stderr.startswith(
        "latency at most 820 ms (chunk 180, window 20, front end 20, lookahead 600) and computing: "
    )


def test_json_is_a_line_a_change_and_a_last_one_with_the_figures(command, whole_text):
    lines = [json.loads(line) for line in command("CLIP", "--stream", "--json").stdout.splitlines()]
    assert [line["is_final"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert len(lines) > 2
    assert lines[-1]["text"] == whole_text == "".join(line["new"] for line in lines)
    assert not any("text" in line for line in lines[:-1])  # which would be written again and again
    assert lines[-1]["latency"]["total_ms"] == 820.0
    assert set(lines[-1]["compute"]) == {"chunks", "median_ms", "max_ms", "share_of_real_time"}
    assert all(0 < a["seconds"] < b["seconds"] <= SECONDS for a, b in itertools.pairwise(lines[:-1]))


def test_standard_input_is_a_wav_or_bare_samples(command, trained):
    content = np.round(CLIP * 32767).astype("<i2").tobytes()
    buffer = io.BytesIO()
    soundfile.write(buffer, np.frombuffer(content, "<i2"), RATE, subtype="PCM_16", format="WAV")
    raw = command("-", "--stream", "--raw-rate", "16000", input=content)
    piped = command("-", "--stream", input=buffer.getvalue())
    assert raw.exit_code == piped.exit_code == 0
    assert len(raw.stdout) > 5
    assert raw.stdout == piped.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["CLIP", "CLIP", "--stream"], "one recording"),
        (["CLIP", "--stream", "--raw-rate", "16000"], "--raw-rate is for bare samples"),
        (["-", "--stream", "--realtime"], "--realtime paces a file"),
        (["CLIP", "--chunk-ms", "100"], "belong to --stream"),
    ],
)
def test_options_that_nothing_would_obey_are_refused(command, arguments, says):
    result = command(*arguments)
    assert isinstance(result.exception, UsageError)
    assert says in str(result.exception)


def test_a_wider_text_shows_its_end_on_a_terminal(monkeypatch, capsys):
    from dsrun.cli_stream import TerminalLine

    monkeypatch.setenv("COLUMNS", "10")
    line = TerminalLine()
    for new in ("abcdefgh", "ijkl", "\x1b"):
        line(new, 1.0)
    assert capsys.readouterr().out == "\rabcdefgh\x1b[K\r…efghijkl\x1b[K\r…ijkl\\x1b\x1b[K"


def test_the_resampler_is_in_the_latency_where_there_is_one_and_what_is_done_to_the_samples_is_said(command, tmp_path):
    path = tmp_path / "other.wav"
    samples = np.random.default_rng(5).uniform(-0.3, 0.3, (44_100, 2)).astype(np.float32)
    soundfile.write(path, samples, 44_100, subtype="FLOAT")
    result = command(str(path), "--stream", "--channel", "1", "--json")
    latency = json.loads(result.stdout.splitlines()[-1])["latency"]
    parts = {name: value for name, value in latency.items() if name != "total_ms"}
    assert set(parts) == {"chunk_ms", "window_ms", "front_end_ms", "lookahead_ms", "resampler_ms"}
    assert 0.1 < parts["resampler_ms"] < 100.0
    assert latency["total_ms"] == pytest.approx(sum(parts.values()))
    assert result.stderr == f"{path}: channel 1 of 2, 44100 Hz resampled to 16000\n"
    report = {
        "latency": latency,
        "compute": {"median_ms": 1.0, "max_ms": 2.0, "share_of_real_time": 0.03},
        "seconds": 1.0,
    }
    assert f"lookahead 600, resampler {parts['resampler_ms']:g})" in latency_line(report)


def test_figures_of_a_long_stream_need_no_more_memory_than_those_of_a_short_one():
    computing = Computing()
    for _ in range(3):
        computing.add(0.5, 4)
        computing.add(0.25, LATEST_CALLS)
    assert (computing.calls, computing.longest, computing.median) == (3 * LATEST_CALLS + 12, 0.5, 0.25)
    assert computing.total == 3 * (2.0 + LATEST_CALLS / 4)
    assert len(computing._latest) == LATEST_CALLS
