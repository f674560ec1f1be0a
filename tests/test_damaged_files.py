"""Whatever a file of a run holds, reading it gives a value or a message, and nothing is written anywhere else.

A run folder can be damaged, or come from a stranger who knows how dsrun's files are made: digests and hashes are mended after a
change where they could be. Bytes are flipped, cut, inserted; in JSON any value is replaced by nasty ones. Beside each folder lies
one with files that nobody may touch.
"""

import ast
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from corpus import REPOSITORY

from dsrun.cli import app
from dsrun.config import load_config, to_yaml
from dsrun.ctc.arpa import read_arpa
from dsrun.errors import DsrunError
from dsrun.evaluation.clock import OutputClock
from dsrun.evaluation.posterior_plot import posterior_figure
from dsrun.evaluation.posteriors import Heard, load_posteriors, posteriors_bytes
from dsrun.evaluation.results import Evaluation
from dsrun.model import FrameStackSettings, ModelSettings, init_parameters, initial_statistics
from dsrun.record import EventLog, RunDir, differences, read_events, read_provenance
from dsrun.record.magnitudes import FIELDS, Magnitudes, load_magnitudes
from dsrun.run_listing import list_runs
from dsrun.scoring import write_details
from dsrun.speech import (
    Alphabet,
    AudioSettings,
    FeatureCache,
    file_digest,
    log_spectrogram,
    open_manifest,
    read_manifest,
    read_utterance,
    utterance_digest,
)
from dsrun.study.magnitudes import make_panels, tensor_rows, total_rows
from dsrun.trained import load_run, require_complete, require_fitting
from dsrun.training.checkpoint import Checkpoint, restore, save
from dsrun.training.loop import Best
from dsrun.training.state_digest import digest_of_description
from tests.study.run_folders import write_run_folder

few = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

NASTY: list[Any] = [
    None, True, 0, -1, 2**31, 10**30, -(10**400), 1e308, float("nan"), float("inf"), "", "x", "..", "../../outside/mine", "/etc/passwd",
    "a\0b", "\ud800", "a/b/../../../c", [], [[]], {}, {"": 0}, {"..": {"..": 1}}, [0] * 50, [[[[[[[[[[]]]]]]]]]], "step", "é" * 3000,
]  # fmt: skip


@st.composite
def harm_to_bytes(draw) -> Callable[[bytes], bytes]:
    """Flip, cut, insert or replace."""
    place, kind = draw(st.floats(0, 1)), draw(st.sampled_from(("flip", "cut", "insert", "remove", "replace")))
    piece = draw(
        st.one_of(
            st.binary(max_size=20), st.sampled_from([b"\0", b"\xff", b"\n", b"{", b"[" * 3000, b"!!python/x", b"&a *a"])
        )
    )

    def harm(content: bytes) -> bytes:
        at = int(place * len(content))
        head, tail = content[:at], content[at:]
        return {
            "flip": head + bytes(byte ^ 1 << len(piece) % 8 for byte in tail[:1]) + tail[1:],
            "cut": head,
            "insert": head + piece + tail,
            "remove": head + tail[1 + len(piece) :],
            "replace": piece,
        }[kind]

    return harm


@st.composite
def harm_to_json(draw) -> Callable[[Any], Any]:
    """Replace, remove or add one value, anywhere."""
    choices = draw(st.lists(st.integers(0, 2**16), min_size=8, max_size=8))
    kind, value = draw(st.sampled_from(("replace", "remove", "add"))), draw(st.sampled_from(NASTY))

    def harm(document: Any, depth: int = 0) -> Any:
        keys = (
            list(document) if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else []
        )
        # Half of the draws go deeper, so that inner values are changed as often as outer ones.
        if not keys or depth >= 7 or (depth and choices[depth] % 2):
            return value
        key = keys[choices[depth] // 2 % len(keys)]
        if kind == "add" and isinstance(document, dict) and choices[depth] % 3 == 0:
            return document | {str(value)[:50].encode(errors="replace").decode(): value}
        if isinstance(document, dict):
            rest = {name: item for name, item in document.items() if name != key}
            return rest if kind == "remove" else {**document, key: harm(document[key], depth + 1)}
        if kind == "remove":
            return [item for place, item in enumerate(document) if place != key]
        return [harm(item, depth + 1) if place == key else item for place, item in enumerate(document)]

    return harm


def tree_of(folder: Path) -> dict[str, Any]:
    """Names, kinds, contents and times below a folder."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.is_file() and path.read_bytes(),
        )
        for path in [folder, *folder.rglob("*")]
    }


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """Files beside the runs; the current folder, too, so that relative names lead there."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "mine").write_text("mine")
    (folder / "step").mkdir()
    before, current = tree_of(folder), Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(current)
    assert tree_of(folder) == before


@pytest.fixture
def work(outside, tmp_path_factory):
    """A folder to harm things in, beside `outside`, left as it was but for what the test itself made."""
    return tmp_path_factory.mktemp("work")


def only_messages(read: Callable[..., Any], *arguments: Any) -> Any:
    """What `read` gives, None after a message; anything else that it raises is a bug in dsrun."""
    with warnings.catch_warnings(), suppress(DsrunError):
        warnings.simplefilter("ignore")
        return read(*arguments)


def fresh(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# --- checkpoints


STATE = {
    "master": {"u": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "none": np.zeros((0, 2), np.float16),
    "step": np.int32(2),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for step in (1, 2):
        save(folder, step, {**STATE, "step": np.int32(step)}, {"alphabet": ["a"], "best": {"cer": 0.5}}, best=1)
    return folder


def restore_harmed(saved: Path, work: Path, harm: Callable[[Path], None]) -> None:
    """The older good step is what remains, or the harmed one where it is still whole."""
    folder = work / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder, symlinks=True)
    harm(folder / "step_000002")
    before = tree_of(folder)
    found = only_messages(lambda: restore(folder, "last"))
    assert found is None or found.step in (1, 2)
    assert found is None or found.arrays["master"]["u"].tobytes() == STATE["master"]["u"].tobytes() or found.step == 2
    only_messages(lambda: restore(folder, "2"))
    only_messages(lambda: restore(folder, "best"))
    assert tree_of(folder) == before


@few
@given(harm=harm_to_bytes())
def test_checkpoint_manifests_with_harmed_bytes(saved, work, harm):
    def spoil(step: Path) -> None:
        (step / "manifest.json").write_bytes(harm((step / "manifest.json").read_bytes()))

    restore_harmed(saved, work, spoil)


def mend(manifest: Any) -> Any:
    """Its digest as a stranger would make it."""
    if not isinstance(manifest, dict):
        return manifest
    content = {key: value for key, value in manifest.items() if key not in ("digest", "files")}
    return manifest | {"digest": digest_of_description(content)}


@few
@given(harm=harm_to_json())
def test_checkpoint_manifests_with_harmed_values_and_a_right_digest(saved, work, harm):
    def spoil(step: Path) -> None:
        manifest = mend(harm(json.loads((step / "manifest.json").read_text())))
        (step / "manifest.json").write_text(json.dumps(manifest))

    restore_harmed(saved, work, spoil)


class Harm:
    """Unpickled, it makes a file."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("harmed",)


def spoil_arrays(step: Path, which: int, harm: Callable[[bytes], bytes]) -> None:
    """Spoil a file that Orbax wrote, and make its hash right."""
    files = sorted(path for path in (step / "arrays").rglob("*") if path.is_file())
    path = files[which % len(files)]
    path.write_bytes(harm(path.read_bytes()))
    manifest = json.loads((step / "manifest.json").read_text())
    manifest["files"][path.relative_to(step).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    (step / "manifest.json").write_text(json.dumps(manifest))


def restore_spoilt_arrays(saved: Path, work: Path) -> None:
    """Each file flipped, cut, with something more, empty, and a pickle."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Harm()]), allow_pickle=True)
    harms: list[Callable[[bytes], bytes]] = [
        lambda content: content[: len(content) // 2],
        lambda content: content[:1] + bytes([content[1] ^ 1 if len(content) > 1 else 0]) + content[2:],
        lambda content: content[: len(content) // 3] + bytes([255] * 9) + content[len(content) // 3 :],
        lambda content: b"",
        lambda content: buffer.getvalue(),
    ]
    for which in range(len([path for path in (saved / "step_000002" / "arrays").rglob("*") if path.is_file()])):
        for harm in harms:
            restore_harmed(saved, work, partial(spoil_arrays, which=which, harm=harm))
    print("only messages")


def test_checkpoint_arrays_with_harmed_bytes_and_right_hashes(saved, work, outside):
    # In a process of its own: Orbax's threads complain of such files long after, whatever test runs then.
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from tests.test_damaged_files import Path, restore_spoilt_arrays\n"
        f"restore_spoilt_arrays(Path({str(saved)!r}), Path({str(work)!r}))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=outside)
    assert found.stdout == "only messages\n", found.stderr
    assert not (outside / "harmed").exists()


# --- the record


EVENTS = b"".join(
    json.dumps({"event": kind, "step": step, "cer": 0.5, "changed": {"a": [1, 2]}}).encode() + b"\n"
    for step, kind in enumerate(("step", "eval", "environment", "checkpoint"), 1)
)


@few
@given(bytes_harm=harm_to_bytes(), json_harm=harm_to_json(), line=st.integers(0, 3))
def test_event_logs(work, bytes_harm, json_harm, line):
    lines = EVENTS.splitlines()
    lines[line] = json.dumps(json_harm(json.loads(lines[line]))).encode()
    for content in (bytes_harm(EVENTS), b"\n".join(lines) + b"\n"):
        path = fresh(work / "events.jsonl", content)
        records = only_messages(read_events, path)
        if records is not None:
            log = EventLog(path)
            log.truncate_after(2)
            log.close()
            assert all(record["step"] <= 2 for record in read_events(path))


STATUS = {"state": "done", "step": 3, "determinism": "off", "result": {"cer": 0.25, "wer": 0.5}}
CONFIG = to_yaml(load_config(REPOSITORY / "configs" / "prompts_float32.yaml").config)


COSTS = {"parameters": 10, "steps_per_epoch": 3, "bytes": {"master": {"as_formats": 40, "as_carried": 40}}}


@settings(few, max_examples=8)  # 40 take ten seconds
@given(
    harm=harm_to_json(),
    name=st.sampled_from(("config.yaml", "status.json", "costs.json", "provenance.json", "events.jsonl")),
)
def test_comparisons_of_runs(work, harm, name):
    harmed, good = work / "harmed", work / "good"
    for folder in (harmed, good):
        if not folder.exists():
            texts = {"test": [("a", "yes no", "yes on"), ("b", "no", "no")]}
            write_run_folder(
                folder, texts=texts, steps=2, dev_cer=(0.5,), events=[("watch", 2, {"changed_share": 0.5})]
            )
            fresh(folder / "costs.json", json.dumps(COSTS).encode())
    whole = (good / name).read_bytes()
    documents = [json.loads(line) for line in whole.splitlines()] if name == "events.jsonl" else json.loads(whole)
    changed = harm(documents)
    is_lines = name == "events.jsonl" and isinstance(changed, list)
    text = "".join(json.dumps(line) + "\n" for line in changed) if is_lines else json.dumps(changed)
    fresh(harmed / name, text.encode())
    for runs in ([harmed, good], [good, harmed]):
        found = CliRunner().invoke(app, ["compare", *map(str, runs)])
        assert found.exception is None or isinstance(found.exception, DsrunError), found.exception
    assert len(list_runs([harmed, good])) >= 1
    fresh(harmed / name, whole)


@few
@given(bytes_harm=harm_to_bytes(), json_harm=harm_to_json())
def test_status_and_lists_of_runs(work, bytes_harm, json_harm):
    run = RunDir(work / "run")
    fresh(run.config, CONFIG.encode())
    fresh(run.events, EVENTS)
    for content in (bytes_harm(json.dumps(STATUS).encode()), json.dumps(json_harm(STATUS)).encode()):
        fresh(run.status, content)
        only_messages(run.read_status)
        assert len(list_runs([work])) <= 1  # a damaged run is named and left out, and hides no other
        only_messages(lambda: run.state(CONFIG))


@few
@given(bytes_harm=harm_to_bytes(), json_harm=harm_to_json())
def test_provenance(work, bytes_harm, json_harm):
    facts = {
        "packages": {"jax": "1"},
        "in_force": {"XLA_FLAGS": "--xla_a=1 --xla_b"},
        "data": {"train": "0"},
        "python": "3.11.1",
    }
    for content in (bytes_harm(json.dumps(facts).encode()), json.dumps(json_harm(facts)).encode()):
        path = fresh(work / "provenance.json", content)
        found = only_messages(read_provenance, path)
        if found is not None:
            assert all(len(pair) == 2 for pair in differences(found, facts).values())


# --- magnitudes


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = 2
    numbers = {
        name: np.ones(rows)
        for name in ("smallest_positive", "smallest_normal", "largest", "smallest_seen", "largest_seen")
    }
    counts = {
        name: np.ones(rows, np.int64)
        for name in ("zeros", "nans", "flushed", "subnormal", "overflowed", "updates", "changed", "swallowed")
    }
    names = {
        "path": ["gru_0.u", "output"],
        "kind": ["weight", "update"],
        "role": ["storage", "update"],
        "format": ["float16"] * 2,
    }
    texts = {name: np.array(values) for name, values in names.items()}
    fields = np.ones((rows, FIELDS), np.int64)
    folder = tmp_path_factory.mktemp("magnitudes")
    Magnitudes(step=1, loss_scale=1.0, fields=fields, **numbers, **counts, **texts).save(folder)
    return (folder / "step_000001.npz").read_bytes()


def use(path: Path) -> None:
    found = load_magnitudes(path)
    places = np.arange(len(found.path))
    found.summary()
    tensor_rows(found, places)
    total_rows(found, places)
    make_panels(found, places)


@few
@given(harm=harm_to_bytes())
def test_magnitudes_with_harmed_bytes(table, work, harm):
    path = fresh(work / "step_000001.npz", harm(table))
    only_messages(lambda: use(path))


def member(header: dict[str, Any], content: bytes = b"") -> bytes:
    """An .npy file with any header."""
    text = repr(header).encode() + b"\n"
    return b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + content


def replace_member(archive: bytes, name: str, content: bytes | None) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for other in old.namelist():
            if other != f"{name}.npy":
                new.writestr(other, old.read(other))
        if content is not None:
            new.writestr(f"{name}.npy", content)
    return target.getvalue()


def npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["path", "kind", "fields", "zeros", "updates", "smallest_seen", "step", "loss_scale"])
@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        member({"descr": "<i8", "fortran_order": False, "shape": (10**9, 10**9)}),
        member({"descr": "<i8", "fortran_order": False, "shape": (10**11,)}),
        member({"descr": "<i8", "fortran_order": False, "shape": (-1,)}),
        member({"descr": "|O", "fortran_order": False, "shape": (2,)}, b"cos\nsystem\n(S'touch mine'\ntR."),
        npy(np.ones(3)),
        npy(np.ones((2, 2, 2))),
        npy(np.array(["x", "y"])),
        npy(np.array([np.nan, -np.inf])),
        npy(np.array([1 + 1j, 0])),
        npy(np.array([-(2**62), 2**62])),
        npy(np.zeros((0,))),
        npy(np.int64(-5)),
    ],
    ids=["missing", "empty", "overflowing", "huge", "negative", "pickle", "longer", "3-d", "text", "not finite", "complex", "large", "none",
         "scalar"],
)  # fmt: skip
def test_magnitudes_with_members_of_any_type_and_shape(table, work, name, content):
    path = fresh(work / "step_000001.npz", replace_member(table, name, content))
    only_messages(lambda: use(path))


def test_an_archive_that_unpacks_to_more_than_any_table_is_refused_before_it_does(table, work, monkeypatch):
    monkeypatch.setattr("dsrun.record.magnitudes.LARGEST_TABLE", 100_000)
    path = fresh(work / "step_000001.npz", table)
    assert load_magnitudes(path).step == 1
    content = member({"descr": "<i8", "fortran_order": False, "shape": (20_000,)}, bytes(160_000))
    fresh(path, replace_member(table, "fields", content))
    with pytest.raises(DsrunError, match="more than 100000 bytes unpacked"):
        load_magnitudes(path)


# --- what was heard of a few utterances


@pytest.fixture(scope="module")
def posteriors():
    features, logits = np.ones((9, 4), np.float32), np.eye(3, dtype=np.float32)
    times: dict[str, Any] = {
        "first_frame": 0.01,
        "hop": 0.01,
        "highest": (8.0, "kHz"),
        "clock": OutputClock(0.02, 0.03),
    }
    own = Heard("u", "a b", "ab", features=features, logits=logits, symbols="ab", wanted=[1], **times)
    return posteriors_bytes(1, "dev", {"best": own, "worst": own})


def use_posteriors(path: Path) -> None:
    shown = next(iter(load_posteriors(path).utterances.values()), None)
    if shown is not None:
        posterior_figure(shown, width=4.0)


@few
@given(harm=harm_to_bytes())
def test_posteriors_with_harmed_bytes(posteriors, work, harm):
    only_messages(load_posteriors, fresh(work / "posteriors.npz", harm(posteriors)))


@few
@given(harm=harm_to_json())
def test_posteriors_with_any_facts(posteriors, work, harm):
    with np.load(io.BytesIO(posteriors)) as found:
        facts = json.loads(found["facts"].tobytes())
    text = json.dumps(harm(facts)).encode()
    path = fresh(work / "posteriors.npz", replace_member(posteriors, "facts", npy(np.frombuffer(text, np.uint8))))
    only_messages(lambda: use_posteriors(path))


@pytest.mark.parametrize("name", ["facts", "features_0", "log10_probs_1", "path_0"])
@pytest.mark.parametrize(
    "content",
    [
        None,
        member({"descr": "|u1", "fortran_order": False, "shape": (10**9, 10**9)}),
        member({"descr": "|O", "fortran_order": False, "shape": (2,)}, b"cos\nsystem\n(S'touch mine'\ntR."),
        npy(np.ones((9, 4))),
        npy(np.full((3, 3), np.nan, np.float16)),
        npy(np.full((3, 3), 5, np.float16)),
        npy(np.full(3, 99, np.int32)),
        npy(np.zeros((0, 4), np.uint8)),
        npy(np.zeros((9, 4), np.uint8)[:, :0]),
        npy(np.zeros(3_999_000, np.uint8)),
    ],
    ids=["missing", "huge", "pickle", "floats", "NaN", "above 1", "no such class", "no frames", "no bins", "large"],
)
def test_posteriors_with_members_of_any_type_and_shape(posteriors, work, name, content):
    path = fresh(work / "posteriors.npz", replace_member(posteriors, name, content))
    only_messages(lambda: use_posteriors(path))


# --- configs and manifests


@few
@given(harm=harm_to_bytes())
def test_configs(work, harm):
    path = fresh(work / "config.yaml", harm(CONFIG.encode()))
    only_messages(lambda: load_config(path))


@pytest.mark.parametrize(
    "text",
    [
        "seed: !!python/object/apply:os.system ['touch mine']\n", "seed: !!int 1\n", "a: &a [*a]\n", "a: &a [1]\nb: [*a, *a]\n",
        "seed: " + "[" * 2000, "seed: " + "{a: " * 2000, "seed: 1" + "0" * 5000, "seed: 1e99999\n", "seed: 0x" + "f" * 4000,
        "seed: \0\n", "%YAML 1.1\n---\nseed: 1\n", "? [a]\n: b\n", "? {a: b}\n", "<<: {a: b}\n", "---\n---\n", "seed: 1\n...\n\x07",
        "base: /dev/zero\n", "base: /dev/stdin\n", "base: [..]\n", "base: \"\\0\"\n", "base: " + "x" * 5000, "\ufeff", "- " * 3000,
        "seed: 2021-01-01\n", "seed: 0b1\n", "data: {train: \"\\uD800\"}\n", "'", "\"\\x\"", "a: |\n" + " " * 3000, "a: b: c\n", "\t",
    ],
)  # fmt: skip
def test_configs_that_try_tricks(work, text):
    path = fresh(work / "config.yaml", text.encode())
    with pytest.raises(DsrunError):
        load_config(path)
    path.write_text(CONFIG + text)
    only_messages(lambda: load_config(path))
    only_messages(lambda: load_config(REPOSITORY / "configs" / "prompts_float32.yaml", [text.replace(": ", "=", 1)]))


MANIFEST = json.dumps(
    {"audio_filepath": "a.wav", "duration": 1.5, "text": "hi", "offset": 0.5, "id": "a", "x": [{"y": 1}]}
).encode()


@few
@given(bytes_harm=harm_to_bytes(), json_harm=harm_to_json())
def test_data_manifests(work, bytes_harm, json_harm):
    for content in (bytes_harm(MANIFEST), json.dumps(json_harm(json.loads(MANIFEST))).encode()):
        path = fresh(work / "list.jsonl", content + b"\n")
        only_messages(read_manifest, path)


# --- features


@few
@given(
    content=st.one_of(st.binary(max_size=200), st.sampled_from([npy(["x"]), npy(1.0), npy([[1 + 1j]]), MANIFEST])),
    is_right=st.booleans(),
)
def test_features_from_a_cache(work, content, is_right):
    plain = np.ones((2, 3), np.float32)
    cache = FeatureCache(work, access="read")
    fresh(
        work / f"{hashlib.sha256(b'key').hexdigest()}.npy",
        content + (hashlib.sha256(content).digest() if is_right else b""),
    )
    assert cache.get("key", lambda: plain).dtype == np.float32


# --- what leads elsewhere, and what would run


def test_pickles_are_not_unpickled_wherever_arrays_are_read(table, work, outside):
    buffer = io.BytesIO()
    np.save(buffer, np.array([Harm()]), allow_pickle=True)
    planted = buffer.getvalue()
    with pytest.raises(DsrunError, match="allow_pickle"):
        load_magnitudes(fresh(work / "step_000001.npz", replace_member(table, "path", planted)))
    fresh(work / f"{hashlib.sha256(b'key').hexdigest()}.npy", planted + hashlib.sha256(planted).digest())
    plain = np.ones((2, 3), np.float32)
    assert FeatureCache(work, access="read").get("key", lambda: plain) is plain
    assert not (outside / "harmed").exists()


def test_no_module_of_dsrun_can_unpickle_or_evaluate():
    for path in (REPOSITORY / "dsrun").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {
                "pickle",
                "marshal",
                "shelve",
                "dill",
                "cloudpickle",
                "joblib",
            }, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert called not in ("eval", "exec", "compile", "__import__", "os.system"), path
                assert called != "np.load" or options.get("allow_pickle") == "False", path
                assert options.get("allow_pickle", "False") == "False", path
                assert options.get("shell", "False") == "False", path


@pytest.mark.parametrize("what", ["step", "manifest.json", "arrays", "a file", "a pipe"])
def test_links_in_a_checkpoint_are_damage_even_where_they_lead_to_the_right_bytes(saved, work, what):
    def move(path: Path) -> None:
        shutil.move(path, work / "moved")
        path.symlink_to(work / "moved")

    def spoil(step: Path) -> None:
        shutil.rmtree(work / "moved", ignore_errors=True)
        if what == "a pipe":
            os.mkfifo(step / "arrays" / "more")
        elif what == "a file":
            move(next(path for path in sorted((step / "arrays").rglob("*")) if path.is_file()))
        else:
            move(step if what == "step" else step / what)

    restore_harmed(saved, work, spoil)
    with pytest.raises(DsrunError, match="a link, a pipe or gone"):
        restore(work / "checkpoints", 2)


def test_saving_over_links_in_the_folder_of_checkpoints_touches_nothing_outside(work):
    folder, target = work / "checkpoints", work / "target"
    (target / "below").mkdir(parents=True)
    folder.mkdir()
    for name in (".writing_3", ".trash_x", "step_000003", "step_000001"):
        (folder / name).symlink_to(target)
    before = tree_of(target)
    save(folder, 3, {**STATE, "step": np.int32(3)}, {}, keep=1)
    assert restore(folder, "last").step == 3
    assert tree_of(target) == before
    assert [path.name for path in folder.iterdir()] == ["step_000003"]


@pytest.mark.parametrize("name", ["../../x", "/x", "a/../b", "a//b", "a/./b", "a\0b", "a\\b", "", "master", "master/u"])
def test_names_in_a_manifest_that_mean_another_place_are_damage(saved, work, name):
    def spoil(step: Path) -> None:
        manifest = json.loads((step / "manifest.json").read_text())
        manifest["empty"].append(name)
        (step / "manifest.json").write_text(json.dumps(mend(manifest)))

    restore_harmed(saved, work, spoil)
    with pytest.raises(DsrunError, match="is none that dsrun writes"):
        restore(work / "checkpoints", 2)


def test_a_strangers_run_is_refused_for_its_links_before_anything_of_it_is_used(work, outside):
    run = RunDir(work / "run")
    fresh(run.config, CONFIG.encode())
    run.evaluation.symlink_to(outside)
    with pytest.raises(DsrunError, match="evaluation: a symbolic link"):
        load_run(run.path, "best")
    run.evaluation.unlink()
    os.mkfifo(run.status)
    assert list_runs([work]) == []  # and it answers


def test_a_cache_of_features_that_is_only_read_stays_as_it_is(work):
    plain = np.ones((2, 3), np.float32)
    assert FeatureCache(work / "cache", access="read").get("key", lambda: plain) is plain
    assert not (work / "cache").exists()


def test_a_manifest_or_a_recording_that_never_ends_is_refused(work):
    os.mkfifo(work / "pipe")
    for path in (work / "pipe", Path("/dev/zero"), work):
        with pytest.raises(DsrunError, match="a folder, a pipe or a device"):
            read_manifest(path)
        with pytest.raises(DsrunError, match="a folder, a pipe or a device"):
            file_digest(path)
    for name in ("x" * 5000, "gone"):
        with pytest.raises(DsrunError):
            file_digest(work / name)


def test_results_of_a_run_that_cannot_be_written_in_are_given_all_the_same(work, monkeypatch, capsys):
    def refuse(*arguments: object, **options: object) -> int:
        raise PermissionError(13, "Permission denied")

    path, nothing = work / "run" / "evaluation" / "dev.jsonl", Evaluation(())
    path.parent.parent.mkdir()
    assert write_details(path, nothing, {"kind": "greedy"}, step=1) == str(path)
    monkeypatch.setattr(os, "open", refuse)
    assert write_details(path, nothing, {"kind": "greedy"}, step=1) is None
    assert "dev.jsonl: not written (Permission denied)" in capsys.readouterr().err


# --- checkpoints that are whole and not of this run


SETTINGS = ModelSettings(
    num_bins=5, num_classes=4, front_end=FrameStackSettings(stack=2, stride=2, hidden=3), hidden=3, layers=1, direction="forward",
    normalization="batch", dropout=0.0, relu_clip=20.0,
)  # fmt: skip


def trained(**changes: Any) -> Checkpoint:
    arrays = {
        "state": {
            "master": init_parameters(SETTINGS, seed=1),
            "statistics": initial_statistics(SETTINGS),
            "step": np.int32(2),
        },
        "features": {"mean": np.zeros(5, np.float32), "deviation": np.ones(5, np.float32)},
    }
    meta = {"alphabet": ["a", "b", "c"], "best": {"step": 1, "cer": 0.5, "evaluations_without_gain": 0}}
    found = Checkpoint(2, arrays, meta, 1, "")
    return replace(found, **changes)


def test_a_checkpoint_of_training_is_complete_and_fits_its_config(work):
    require_complete(trained(), RunDir(work))
    require_fitting(trained(), SETTINGS, RunDir(work))
    with pytest.raises(DsrunError, match=r"step 2 does not fit the run's config: .*the config asks for \(4"):
        require_fitting(trained(), replace(SETTINGS, hidden=4), RunDir(work))


def as_restored(arrays: Any) -> Any:
    """A nested dict has arrays alone, and no name without letters."""
    if isinstance(arrays, dict):
        return {key: as_restored(value) for key, value in arrays.items() if key.isalnum() or "_" in key}
    return arrays if hasattr(arrays, "dtype") else np.zeros(2, np.int32)


@few
@given(harm=harm_to_json(), is_meta=st.booleans())
def test_a_checkpoint_with_other_contents_is_a_message(work, harm, is_meta):
    plain = trained()
    found = replace(plain, meta=harm(plain.meta)) if is_meta else replace(plain, arrays=as_restored(harm(plain.arrays)))
    if not isinstance(found.meta, dict) or not isinstance(found.arrays, dict):
        return  # `restore` gives no such thing

    def check() -> None:
        require_complete(found, RunDir(work))
        require_fitting(found, SETTINGS, RunDir(work))
        Alphabet(tuple(found.meta["alphabet"]))
        Best(**found.meta["best"])

    only_messages(check)


# --- what scripts/fuzz.py found


def test_a_gzip_of_millions_of_blank_lines_is_no_language_model_and_is_not_read_to_its_end(work):
    path = fresh(work / "model.arpa", gzip.compress(b"\n" * 50_000_000, 1))
    started = time.monotonic()
    with pytest.raises(DsrunError, match=r"model\.arpa:1001: more than 1000 blank lines in a row"):
        read_arpa(path)
    assert time.monotonic() - started < 5


def test_features_of_ten_minutes_need_little_more_memory_than_they_take():
    samples = np.zeros(600 * 16_000, np.float32)
    tracemalloc.start()
    try:
        features = log_spectrogram(samples, sample_rate=16_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < features.nbytes + 8_000_000  # of an hour at once it was 2 GiB


@pytest.mark.parametrize("name", ["/", ".", "..", "a/..", "./."])
def test_a_manifest_may_name_a_folder_and_reading_its_recording_says_so(work, name):
    path = fresh(work / "list.jsonl", json.dumps({"audio_filepath": name, "duration": 1, "text": "a"}).encode())
    (utterance,) = read_manifest(path)
    with pytest.raises(DsrunError, match="a folder"):
        utterance_digest(utterance)


def test_both_readers_of_manifests_take_a_lone_carriage_return_as_white_space_and_not_as_the_end_of_a_line(work):
    row = json.dumps({"audio_filepath": "a.wav", "duration": 1, "text": "a"}).encode()
    one = fresh(work / "one.jsonl", row.replace(b", ", b",\r") + b"\r\n")
    two = fresh(work / "two.jsonl", row + b"\r" + row.replace(b"a.wav", b"b.wav"))
    for read in (read_manifest, open_manifest):
        assert [utterance.id for utterance in read(one)] == ["a"]
        with pytest.raises(DsrunError, match="two.jsonl:1: not a JSON object"):
            read(two)


def test_a_name_too_long_for_any_file_is_a_missing_recording_and_stops_no_import_of_the_others(work):
    from dsrun.speech.importers import import_corpus

    soundfile.write(work / "a.wav", np.ones(8000, np.float32) / 2, 16_000)
    rows = [{"audio_filepath": name, "duration": 0.5, "text": "hi"} for name in ("a.wav", "x" * 5000 + ".wav")]
    path = fresh(work / "dev.json", "\n".join(map(json.dumps, rows)).encode())
    with pytest.raises(DsrunError, match="no such file"):
        read_utterance(read_manifest(path)[1], AudioSettings(16_000))
    report = import_corpus("nemo", path, work / "out")
    assert [entry["count"] for entry in report["left_out"].values()] == [1]
