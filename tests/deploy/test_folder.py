"""The folder: what was written is read again, to the bit, and what is damaged, foreign or in the way is refused by name."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
import soundfile

from dsrun.deploy.folder import MODEL, PROGRAM, WEIGHTS, Exported, load, save
from dsrun.deploy.network import logits
from dsrun.deploy.program import build_program
from dsrun.deploy.script import NAME, script_text
from dsrun.deploy.storage import pack
from dsrun.errors import DataError, UsageError
from dsrun.speech import Alphabet, AudioSettings, FeatureSettings, Normalization
from tests.deploy.networks import CONVOLUTIONS, quantized, small, speech

FEATURES = FeatureSettings("log_spectrogram", 8000, window_ms=2, hop_ms=1)


def exported(format, settings=None):
    """A small network as if a run had been exported; nine bins."""
    settings = settings or small(bins=FEATURES.num_bins)
    network, arrays = quantized(settings, format)
    bins = np.linspace(-1, 1, FEATURES.num_bins).astype(np.float32)
    alphabet, normalization = Alphabet(("a", "b", "é", " ")), Normalization(bins, bins + 2)
    return Exported(
        None,
        network,
        arrays,
        alphabet,
        FEATURES,
        normalization,
        AudioSettings(8000, max_seconds=20.0),
        20.0,
        {"format": format},
    )


@pytest.mark.parametrize("format", ["bfloat16", "float8_e4m3fn", "int8", "int4"])
def test_a_model_comes_back_to_the_bit(format, tmp_path):
    model = exported(format)
    save(model, tmp_path / "model", {}, overwrite=False)
    found = load(tmp_path / "model")
    assert found.network == model.network
    assert (found.alphabet, found.features, found.audio) == (model.alphabet, model.features, model.audio)
    assert found.arrays.keys() == model.arrays.keys()
    for path, own in model.arrays.items():
        for name, array in own.items():
            other = found.arrays[path][name]
            assert (other.dtype, other.shape) == (array.dtype, array.shape), (path, name)
            assert np.asarray(other).tobytes() == np.asarray(array).tobytes(), (path, name)


def test_int4_takes_half_a_byte_a_weight():
    network, arrays = quantized(small(), "int4")
    stored, _ = pack(network, arrays)
    weights = {path: own["weight"].size for path, own in arrays.items() if "weight" in own}
    assert {path: stored[f"{path}/weight"].nbytes for path in weights} == {p: -(-n // 2) for p, n in weights.items()}


def test_the_program_gives_the_networks_bits_for_any_batch_and_length():
    model = exported("int4", small(direction="forward", bins=FEATURES.num_bins))
    stored, shapes = pack(model.network, model.arrays)
    program = jax.export.deserialize(bytearray(build_program(model.network, stored, shapes)))
    for lengths in ((7,), (31, 12, 0), (31, 12, 0, 7, 20)):  # fewer than four rows are filled up
        features, num_frames = speech(model.network.settings, lengths)
        wanted, counts = jax.jit(partial(logits, model.network))(model.arrays, features, num_frames)
        found, found_counts = program.call(stored, features, num_frames)
        assert found_counts.tolist() == counts.tolist()
        assert np.asarray(found).tobytes() == np.asarray(wanted).tobytes()


def scores_of(model, arrays, heard):
    scores, _ = jax.jit(partial(logits, model.network))(arrays, heard[None], np.array([len(heard)], np.int32))
    return np.asarray(scores)[0]


def balanced(model, heard):
    """Arrays whose classes have the same mean score, so that what is said changes from frame to frame."""
    output = model.arrays["output_kernel"]
    bias = output["bias"] - scores_of(model, model.arrays, heard).mean(axis=0)
    return model.arrays | {"output_kernel": output | {"bias": bias}}


@pytest.mark.parametrize("kind", ["log_spectrogram", pytest.param("log_mel", marks=pytest.mark.slow)])
def test_the_script_prints_what_the_network_hears(kind, tmp_path):
    rng = np.random.default_rng(6)
    features = replace(FEATURES, kind=kind, num_mels=5 if kind == "log_mel" else 0, window_ms=8)
    model = replace(exported("int8", small(bins=features.num_bins)), features=features)
    model = replace(model, normalization=Normalization(*(np.full(features.num_bins, x, np.float32) for x in (-9, 3))))
    samples = (rng.normal(size=4000) * np.repeat(rng.uniform(0, 0.3, 40), 100)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="PCM_16")
    heard = model.normalization.apply(features.compute(soundfile.read(tmp_path / "a.wav", dtype="float32")[0]))
    model = replace(model, arrays=balanced(model, heard))
    stored, shapes = pack(model.network, model.arrays)
    files = {PROGRAM: build_program(model.network, stored, shapes), NAME: script_text(features)}
    save(model, tmp_path / "model", files, overwrite=False)
    best = scores_of(model, model.arrays, heard).argmax(axis=1)
    wanted = model.alphabet.decode([int(k) for k, before in zip(best, [0, *best], strict=False) if k and k != before])
    with (tmp_path / "a.wav").open("rb") as audio:
        done = subprocess.run(
            [sys.executable, str(tmp_path / "model" / NAME)], stdin=audio, capture_output=True, timeout=120
        )
    assert done.stdout.decode() == wanted + "\n", done.stderr.decode()
    assert len(set(wanted)) > 1


def test_the_script_is_twenty_lines_at_most_and_imports_jax_and_numpy_alone():
    text = script_text(replace(FEATURES, kind="log_mel", num_mels=4))
    imports = [line for line in text.splitlines() if line.startswith(("import", "from"))]
    assert imports == ["import numpy as np", "from jax import export"]
    assert len(text.splitlines()) <= 20


def test_a_product_whose_sum_could_wrap_is_refused_by_its_name(tmp_path, monkeypatch):
    save(exported("int8"), tmp_path / "model", {}, overwrite=False)
    inputs = FEATURES.num_bins * small().front_end.stack
    monkeypatch.setattr("dsrun.deploy.folder.most_inputs", lambda format: inputs)
    load(tmp_path / "model")
    monkeypatch.setattr("dsrun.deploy.folder.most_inputs", lambda format: inputs - 1)
    with pytest.raises(DataError, match=f"front_end.kernel has {inputs} inputs"):
        load(tmp_path / "model")


def damaged(folder, name, change):
    content = bytearray((folder / name).read_bytes())
    change(content)
    (folder / name).write_bytes(content)


def test_damage_is_refused_by_the_name_of_the_file(tmp_path):
    folder = tmp_path / "model"
    for name, change, words in (
        (WEIGHTS, lambda c: c.__setitem__(len(c) // 2, c[len(c) // 2] ^ 1), "SHA-256"),
        ("features.npz", lambda c: c.clear(), "SHA-256"),
        (MODEL, lambda c: c.__delitem__(slice(len(c) // 2, None)), "not JSON"),
    ):
        save(exported("int8"), folder, {}, overwrite=True)
        damaged(folder, name, change)
        with pytest.raises(DataError, match=words) as error:
            load(folder)
        assert name in str(error.value)
    (folder / MODEL).write_text("{}")
    with pytest.raises(DataError, match="description"):
        load(folder)


def test_arrays_of_another_network_are_refused(tmp_path):
    folder = tmp_path / "model"
    save(exported("int8"), folder, {}, overwrite=False)
    document = json.loads((folder / MODEL).read_text())
    for change, words in (
        ({"dsrun_export": 7}, "version 7"),
        ({"network": document["network"] | {"hidden": 9}}, "not the arrays of the network"),
        ({"formats": document["formats"] | {"output_kernel": "int3"}}, "int3"),
        ({"alphabet": {}}, "not as dsrun writes it"),
    ):
        (folder / MODEL).write_text(json.dumps(document | change))
        with pytest.raises(DataError, match=words):
            load(folder)


@pytest.mark.parametrize(
    ("format", "settings"),
    [
        ("float32", small(normalization="layer", bins=FEATURES.num_bins)),
        ("float16", small(CONVOLUTIONS, direction="forward", lookahead=2, bins=FEATURES.num_bins)),
        ("int8", small(normalization="layer", direction="forward", lookahead=2, bins=FEATURES.num_bins)),
        ("int4", small(normalization="none", bins=FEATURES.num_bins)),
    ],
)
def test_an_array_left_out_of_another_kind_or_too_many_is_refused_by_name(format, settings, tmp_path):
    folder = tmp_path / "model"
    model = exported(format, settings)
    save(model, folder, {}, overwrite=False)
    load(folder)
    stored, _ = pack(model.network, model.arrays)
    for number, (name, array) in enumerate(stored.items()):
        wrong = ({}, {name: array.astype(np.float64)}, {name: np.concatenate([array.ravel(), array.ravel()])})
        assert_refused(folder, {other: x for other, x in stored.items() if other != name} | wrong[number % 3], name)
    assert_refused(folder, stored | {"guest/weight": np.zeros(3, np.float32)}, "guest/weight")


def assert_refused(folder, arrays, name):
    np.savez(folder / WEIGHTS, **arrays)
    document = json.loads((folder / MODEL).read_text())
    document["files"][WEIGHTS] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / MODEL).write_text(json.dumps(document))
    with pytest.raises(DataError, match="not the arrays of the network") as error:
        load(folder)
    assert name in str(error.value)


def test_nothing_is_replaced_that_is_not_an_export_or_was_not_asked_for(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="no exported model"):
            save(exported("int8"), folder, {}, overwrite=overwrite)
    (folder / "thesis.txt").unlink()
    save(exported("int8"), folder, {}, overwrite=False)
    with pytest.raises(UsageError, match="--overwrite"):
        save(exported("int4"), folder, {}, overwrite=False)
    save(exported("int4"), folder, {}, overwrite=True)
    assert load(folder).format == "int4"


def test_the_same_model_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save(exported("int8"), tmp_path / name, {}, overwrite=False)
    for file in (WEIGHTS, MODEL, "features.npz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
