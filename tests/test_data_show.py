"""`dsrun data show`: what is drawn and written is what an epoch of training gets."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent))
from corpus import shortest_prompts, write_config, write_rows, write_tone

from dsrun import build
from dsrun.config import load_config
from dsrun.data_show import make_panels, saying_what_no_font_has, show_utterance
from dsrun.errors import DataError, UsageError
from dsrun.speech import augment_samples, read_manifest, read_utterance


@pytest.fixture
def data(tmp_path):
    """A manifest of real clips and a config with every augmentation."""
    manifest = write_rows(tmp_path / "m.jsonl", shortest_prompts(3))
    for name, seconds in (("hum", 2.0), ("room", 0.2)):
        write_tone(tmp_path / f"{name}.wav", seconds=seconds)
        write_rows(tmp_path / f"{name}.jsonl", [{"audio_filepath": f"{name}.wav", "duration": seconds}])
    config = write_config(tmp_path, train=manifest, dev=manifest)
    values = json.loads(config.read_text())
    values["augment"] = {
        "noise": {"manifest": "hum.jsonl", "snr_db": [5, 10]},
        "reverb": {"manifest": "room.jsonl", "probability": 0.5},
        "gain_db": [-6, 6],
    }
    config.write_text(json.dumps(values))
    return manifest, config


def panels(manifest, config, epoch):
    return make_panels(read_manifest(manifest)[1], load_config(config).config, epoch=epoch)


def test_there_is_a_panel_for_each_augmentation_of_the_epoch_and_the_last_is_what_training_hears(data):
    manifest, config = data
    resolved = load_config(config).config
    utterance = read_manifest(manifest)[1]
    seen = set()
    for epoch in range(6):
        found = panels(manifest, config, epoch)
        names = [panel.name for panel in found]
        assert names == [n for n in ("plain", "speed", "reverb", "noise", "gain", "masks", "all") if n in names]
        seen |= set(names)
        heard = augment_samples(
            read_utterance(utterance, build.build_audio(resolved)),
            augmentation=build.build_augmentation(resolved),
            sample_rate=16_000,
            seed=resolved.seed,
            epoch=epoch,
            id=utterance.id,
        )
        np.testing.assert_array_equal(found[-1].samples, heard)
        assert len(found[-1].features) == build.build_features(resolved).num_frames(len(heard))
    assert seen == {"plain", "speed", "reverb", "noise", "gain", "masks", "all"}


def test_picture_and_audio_are_written_and_the_caption_says_what_was_drawn(data, tmp_path):
    manifest, config = data
    id = shortest_prompts(2)[1]["id"]
    caption = show_utterance(
        manifest, id, config=config, epoch=2, output=tmp_path / "u.png", audio=tmp_path / "heard.flac"
    )
    assert (tmp_path / "u.png").read_bytes().startswith(b"\x89PNG")
    samples, rate = soundfile.read(tmp_path / "heard.flac", dtype="float32")
    heard = panels(manifest, config, 2)[-1].samples
    assert rate == 16_000
    np.testing.assert_allclose(samples, heard, atol=1 / 32768)
    assert "epoch 2, noise: hum from " in caption
    assert f"epoch 2 hears it, {len(heard) / 16_000:.2f} s" in caption


def test_a_misspelt_id_is_answered_with_close_ones(data, tmp_path):
    manifest, config = data
    id = shortest_prompts(2)[1]["id"]
    with pytest.raises(DataError, match=f"no utterance '{id}x'; did you mean '{id}'"):
        show_utterance(manifest, id + "x", config=config, epoch=0, output=tmp_path / "u.png")
    with pytest.raises(DataError, match=f"no utterance '#'; the first is '{shortest_prompts(1)[0]['id']}'"):
        show_utterance(manifest, "#", config=config, epoch=0, output=tmp_path / "u.png")
    for wrong in ({"output": tmp_path / "u.gif"}, {"output": tmp_path / "u.png", "audio": tmp_path / "u.mp3"}):
        with pytest.raises(UsageError, match="ends in"):
            show_utterance(manifest, id, config=config, epoch=0, **wrong)


def test_dollars_are_drawn_as_they_are_and_a_script_that_the_font_lacks_is_told_once_in_words(data, tmp_path, capsys):
    _, config = data
    manifest = write_rows(tmp_path / "m2.jsonl", [shortest_prompts(1)[0] | {"id": "a", "text": r"what $\x$ is 日本語"}])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        caption = show_utterance(manifest, "a", config=config, epoch=0, output=tmp_path / "u.png")
    assert r"what $\\x$ is 日本語" in caption
    assert not [warning for warning in caught if "Glyph" in str(warning.message)]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{tmp_path}/u.png: the font has no signs for some of the text; they are drawn as boxes."


def test_other_warnings_of_a_drawing_are_passed_on(tmp_path):
    with pytest.warns(UserWarning, match="something else"), saying_what_no_font_has(tmp_path):
        warnings.warn("something else", stacklevel=1)
