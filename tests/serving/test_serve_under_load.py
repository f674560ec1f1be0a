"""A real `dsrun serve`: thirty people at once among clients that mean no good; the page in a browser; the clients of docs/SERVING.md."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from dsrun.deploy.folder import Exported, save
from dsrun.models import load_model
from dsrun.speech import AudioSettings
from dsrun.streaming import StreamRecogniser
from tests.deploy.networks import quantized
from tests.serving.browser import CHROMIUM, browser, record
from tests.serving.crowd import as_heard, as_sent, run_crowd, serving
from tests.serving.speakers import ALPHABET, FEATURES, NORMALIZATION, RATE, SHAPE, sound, talkative

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An export of the tiny network, which answers to every sound."""
    folder = tmp_path_factory.mktemp("served") / "int8"
    network, arrays = quantized(SHAPE, "int8", weights=talkative)
    document = {"format": "int8", "source": {"run": "runs/tiny", "step": 1}, "manifests": {}}
    audio = AudioSettings(RATE, resample=True, max_seconds=20.0)
    exported = Exported(None, network, arrays, ALPHABET, FEATURES, NORMALIZATION, audio, 20.0, document)
    save(exported, folder, {}, overwrite=False)
    return folder


def test_thirty_streams_among_bad_clients_have_the_texts_of_transcribe_stream_and_memory_stays(model):
    clips = [as_sent(sound(4.0, seed)) for seed in range(30)]
    texts, figures, said = run_crowd(model, clips, RATE, rounds=3)
    recogniser = StreamRecogniser(load_model(model), chunk_ms=200)
    for number, clip in enumerate(clips):
        recogniser.restart()
        recogniser.hear(as_heard(clip))
        recogniser.finish()
        assert len(recogniser.text) > 3
        assert [one[number] for one in texts] == [recogniser.text] * 3
    assert figures["misdeeds"] > 20
    assert figures["health_asked"] > 10
    assert figures["exit_code"] == 0
    # The first round brings what is kept from then on: buffers of the allocator, threads.
    assert figures["memory_mb"][-1] < figures["memory_mb"][1] + 30, figures
    assert "Traceback" not in said, said


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_shows_what_the_microphone_hears_and_what_a_file_says(model, tmp_path):
    recording = tmp_path / "spoken.wav"
    # Chromium's device plays from the beginning when it is opened; silence behind, so that the end is not cut.
    soundfile.write(recording, np.concatenate([sound(3.0, 1), np.zeros(2 * RATE, np.float32)]), RATE, subtype="PCM_16")
    with serving(model) as (about, _, said), browser(recording, tmp_path) as page:
        page.open(f"http://127.0.0.1:{about['port']}/")
        assert page.text("model") == "tiny (int8)"
        text, status = record(page, seconds=3.0)
        assert len(text.strip()) > 3
        assert re.search(r"the network is \d+ ms behind the sound", status)
        page.choose_file(recording)
        page.wait_for("document.getElementById('file-status').textContent.includes('recognised in')")
        assert len(page.text("file-text")) > 3
        assert page.value("document.getElementById('error').hidden")
        for width, scheme in ((900, "light"), (900, "dark"), (400, "light"), (320, "dark")):
            assert page.look(f"{width}-{scheme}", width=width, scheme=scheme) == 0, width
        assert page.complaints == []
    assert "Traceback" not in "".join(said)


def test_the_clients_that_the_documentation_shows_work(model, tmp_path, request):
    page = (request.config.rootpath / "docs" / "SERVING.md").read_text(encoding="utf-8")
    (client,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    (line,) = re.findall(r"^curl .*/transcribe$", page, flags=re.M)
    samples = sound(2.0, 1)
    soundfile.write(tmp_path / "talk.wav", samples, RATE, subtype="PCM_16")
    recogniser = StreamRecogniser(load_model(model), chunk_ms=200)
    recogniser.hear(soundfile.read(tmp_path / "talk.wav", dtype="float32")[0])
    recogniser.finish()
    with serving(model) as (about, _, _):
        script = tmp_path / "client.py"
        script.write_text(client.replace("8765", str(about["port"])))
        found = subprocess.run(
            [sys.executable, script, "talk.wav"], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert found.returncode == 0, found.stderr
        assert found.stdout.splitlines()[-1] == recogniser.text
        if shutil.which("curl"):
            command = line.replace("8765", str(about["port"])).split()
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
            assert '"text":' in answer.stdout, answer


def test_a_file_longer_than_the_limit_is_refused_whatever_its_size_and_a_shorter_one_is_as_transcribe_has_it(
    model, tmp_path
):
    from urllib.error import HTTPError
    from urllib.request import urlopen

    soundfile.write(tmp_path / "long.flac", np.zeros(200 * RATE), RATE)  # some kilobytes
    soundfile.write(tmp_path / "short.wav", sound(2.5, 1), RATE, subtype="PCM_16")
    assert (tmp_path / "long.flac").stat().st_size < 100_000
    with serving(model, "--max-seconds", "3") as (about, _, _):
        url = about["address"] + "transcribe"
        with pytest.raises(HTTPError) as refused:
            urlopen(url, data=(tmp_path / "long.flac").read_bytes())
        assert refused.value.code == 422
        assert "longer than 3 s" in json.loads(refused.value.read())["error"]
        refused.value.close()
        with urlopen(url, data=(tmp_path / "short.wav").read_bytes()) as answer:
            found = json.loads(answer.read())
    command = [sys.executable, "-m", "dsrun", "transcribe", str(model), str(tmp_path / "short.wav"), "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=100).stdout)
    (own,) = told["results"] if isinstance(told, dict) and "results" in told else [told]
    assert found["text"] == own["text"]
    assert found["words"] == own["words"]
