"""A checkpoint is whole to the bit, or it is named as damaged and not used."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from dsrun.errors import DataError
from dsrun.training.checkpoint import (
    FAULT_POINTS,
    available_steps,
    restore,
    save,
)
from dsrun.training.state_digest import describe_state, digest_of_description, empty_dicts, flatten

META = {"best": {"step": 3, "cer": 0.25}, "alphabet": ["a", "ж"]}


def digest_of(step: int, arrays: dict, meta: dict, best: int | None = None) -> str:
    return describe_state(step, best, meta, flatten(arrays), empty=empty_dicts(arrays))["digest"]


class Killed(BaseException):
    """Like SIGKILL for code that catches Exception: nothing is tidied up."""


def some_state(seed: int = 0) -> dict:
    generator = np.random.default_rng(seed)
    return {
        "master": {"gru_0": {"u_r": generator.standard_normal((5, 7)).astype(np.float32)}},
        "optimizer": {"00_of_1": jnp.asarray(generator.standard_normal(3), jnp.float32)},
        "step": np.int32(seed),
    }


def assert_same_bits(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_same_bits(found[key], value)
        else:
            assert type(found[key]) is np.ndarray
            assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape), key
            assert found[key].tobytes() == np.asarray(value).tobytes(), key


def flip_a_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def hidden_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]


def test_every_dtype_shape_and_special_value_comes_back_bit_for_bit(tmp_path):
    subnormal = np.array([6e-8, -6e-8, 0.0, -0.0, np.inf, np.nan], np.float16)
    nan_with_payload = np.array([0x7FC12345, 0xFFA00001], np.uint32).view(np.float32)
    state = {
        "float16": subnormal,
        "float32": nan_with_payload,
        "float64": np.array([1 / 3]),
        "complex64": np.array([1 + 2j], np.complex64),
        "bfloat16": np.arange(4).astype(ml_dtypes.bfloat16),
        "float8_e4m3fn": np.array([448.0, -0.0, 2.0**-9]).astype(ml_dtypes.float8_e4m3fn),
        "int4": np.array([-8, 7]).astype(ml_dtypes.int4),
        "int32": np.array([[16777217, -(2**31)]], np.int32),
        "uint32": np.array([2**32 - 1], np.uint32),
        "bool": np.array(True),
        "scalar": jnp.float32(0.1),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "nothing": np.zeros((0, 3), np.float16),
        "normalization": {"none": {}},
        "dots.in": {"a key": np.ones(2, np.int8)},
    }
    save(tmp_path, 1, state, {})
    assert_same_bits(restore(tmp_path).arrays, state)


def test_a_state_without_any_array_comes_back(tmp_path):
    digest = save(tmp_path, 0, {"statistics": {}}, META)
    found = restore(tmp_path)
    assert (found.arrays, found.meta, found.digest) == ({"statistics": {}}, META, digest)


def test_meta_comes_back_even_where_json_changes_its_types(tmp_path):
    save(tmp_path, 1, some_state(), {"cer": float("inf"), 10: (1, 2.5), 9: None})
    assert restore(tmp_path).meta == {"cer": float("inf"), "10": [1, 2.5], "9": None}


def test_equal_states_have_equal_digests_whatever_the_order_of_keys_and_the_kind_of_array(tmp_path):
    state = some_state()
    other = {key: state[key] for key in reversed(state)} | {
        "optimizer": {"00_of_1": np.asarray(state["optimizer"]["00_of_1"])}
    }
    meta = {key: META[key] for key in reversed(META)}
    digest = save(tmp_path, 7, state, META, best=3)
    assert digest == digest_of(7, other, meta, best=3)
    assert digest == restore(tmp_path, 7).digest


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["master"]["gru_0"].update(u_r=np.nextafter(s["master"]["gru_0"]["u_r"], np.float32(9))),
        lambda s: s["master"]["gru_0"].update(u_r=s["master"]["gru_0"]["u_r"].reshape(7, 5)),
        lambda s: s["master"]["gru_0"].update(u_r=s["master"]["gru_0"]["u_r"].view(np.int32)),
        lambda s: s["master"].update(gru_1=s["master"].pop("gru_0")),
        lambda s: s.update(statistics={}),
        lambda s: s.update(step=np.int32(1)),
    ],
    ids=["value", "shape", "dtype", "name", "empty dict", "scalar"],
)
def test_any_difference_in_the_state_changes_the_digest(change):
    changed = some_state()
    change(changed)
    assert digest_of(1, changed, META) != digest_of(1, some_state(), META)


def test_step_best_and_meta_belong_to_the_digest():
    digests = {
        digest_of(1, some_state(), META),
        digest_of(2, some_state(), META),
        digest_of(1, some_state(), META, best=1),
        digest_of(1, some_state(), {}),
    }
    assert len(digests) == 4


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step, some_state(step), META, best=min(step, 2), keep=2)
    assert available_steps(tmp_path) == [2, 5, 6]
    assert hidden_in(tmp_path) == []
    assert restore(tmp_path, "best").step == 2
    assert_same_bits(restore(tmp_path, "5").arrays, some_state(5))


def test_every_mth_is_kept_for_good_beside_the_newest_and_the_best(tmp_path):
    for step in range(2, 16, 2):
        save(tmp_path, step, some_state(step), META, best=min(step, 4), keep=1, keep_every=6)
    assert available_steps(tmp_path) == [4, 6, 12, 14]


@pytest.mark.parametrize("point", FAULT_POINTS)
@pytest.mark.parametrize("before", ["nothing", "older", "the same step damaged"])
def test_a_kill_at_any_point_leaves_a_good_state_and_the_next_save_tidies_up(tmp_path, point, before):
    def kill(reached: str) -> None:
        if reached == point:
            raise Killed

    if before != "nothing":
        save(tmp_path, 1, some_state(1), META)
    if before == "the same step damaged":
        save(tmp_path, 2, some_state(2), META)
        (tmp_path / "step_000002" / "manifest.json").write_text("{")
    with pytest.raises(Killed):
        save(tmp_path, 2, some_state(2), META, keep=1, fault=kill)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the damaged step that is still there
        if before == "nothing" and not available_steps(tmp_path):
            with pytest.raises(DataError, match="no checkpoints"):
                restore(tmp_path)
        else:
            found = restore(tmp_path)
            assert_same_bits(found.arrays, some_state(found.step))
    save(tmp_path, 2, some_state(2), META, keep=1)
    assert available_steps(tmp_path) == [2]
    assert hidden_in(tmp_path) == []
    assert restore(tmp_path).step == 2


SAVE_FOREVER = """
import sys
from pathlib import Path
import numpy as np
from dsrun.training.checkpoint import available_steps, restore, save

folder = Path(sys.argv[1])
first = restore(folder).step if available_steps(folder) else 0
for step in range(first + 1, 100_000):
    save(folder, step, {"master": {"u_r": np.full((300, 300), step, np.float32)}, "step": np.int32(step)}, {}, keep=2)
    print(step, flush=True)
"""


def test_a_process_killed_again_and_again_while_it_saves_always_goes_on_from_a_good_state(tmp_path):
    last = 0
    for wait in (0.0, 0.013, 0.041):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        for _ in range(3):
            process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        printed = [int(line) for line in process.stdout.read().split()]
        process.wait()
        process.stdout.close()
        found = restore(tmp_path)
        assert found.step >= max([last + 3, *printed])
        assert np.unique(found.arrays["master"]["u_r"]).tolist() == [found.step]
        last = found.step


def test_a_flipped_bit_in_any_file_is_never_restored_as_a_value(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "flipped"
    save(whole, 1, some_state(1), META)
    save(whole, 2, some_state(2), META)
    for path in files_below(whole / "step_000002"):
        size = path.stat().st_size
        for place in sorted({size * part // 6 for part in range(6)}) if size else []:
            shutil.copytree(whole, folder)
            flip_a_bit(folder / path.relative_to(whole), place)
            with pytest.warns(UserWarning, match=r"step_000002.*using the older step 1"):
                assert_same_bits(restore(folder).arrays, some_state(1))
            shutil.rmtree(folder)


def test_a_wrong_value_in_files_that_are_whole_is_named_by_its_tensor(tmp_path):
    save(tmp_path, 1, some_state(1), META)
    save(tmp_path, 2, some_state(2), META)
    changed = some_state(2)
    changed["master"]["gru_0"]["u_r"][0, 0] += 1
    save(tmp_path / "other", 2, changed, META)
    shutil.rmtree(tmp_path / "step_000002" / "arrays")
    shutil.copytree(tmp_path / "other" / "step_000002" / "arrays", tmp_path / "step_000002" / "arrays")
    manifest = tmp_path / "step_000002" / "manifest.json"
    files = json.loads((tmp_path / "other" / "step_000002" / "manifest.json").read_text())["files"]
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"files": files}))
    with pytest.warns(UserWarning, match=r"step_000002.*'master/gru_0/u_r' is damaged: sha256.*using the older step 1"):
        assert restore(tmp_path).step == 1


@pytest.mark.parametrize("harm", ["truncate", "delete"])
def test_a_truncated_or_missing_file_falls_back_to_the_older_step_with_a_warning(tmp_path, harm):
    save(tmp_path, 1, some_state(1), META)
    save(tmp_path, 2, some_state(2), META)
    for path in files_below(tmp_path / "step_000002"):
        path.write_bytes(path.read_bytes()[:-7]) if harm == "truncate" else path.unlink()
    with pytest.warns(UserWarning, match=r"step_000002.*damaged.*using the older step 1"):
        assert_same_bits(restore(tmp_path).arrays, some_state(1))


def test_a_step_asked_for_by_number_is_never_replaced_by_another(tmp_path):
    save(tmp_path, 1, some_state(1), META, best=1)
    save(tmp_path, 2, some_state(2), META, best=1)
    (tmp_path / "step_000001" / "manifest.json").unlink()
    for which in (1, "1", "best"):
        with pytest.raises(DataError, match="step_000001.*damaged.*Other steps: 2"):
            restore(tmp_path, which)
    with pytest.raises(DataError, match="no checkpoint of step 9. There are: 1, 2"):
        restore(tmp_path, 9)
    with pytest.raises(DataError, match="'newest': write best, last or a step number"):
        restore(tmp_path, "newest")


def test_where_no_checkpoint_is_good_the_error_names_every_one(tmp_path):
    for step in (1, 2):
        save(tmp_path, step, some_state(step), META)
        flip_a_bit(tmp_path / f"step_00000{step}" / "manifest.json", 40)
    with pytest.raises(DataError, match=r"(?s)step_000002.*step_000001.*No checkpoint is good"):
        restore(tmp_path)


def test_best_before_any_evaluation_is_an_error(tmp_path):
    save(tmp_path, 1, some_state(1), META)
    with pytest.raises(DataError, match="no evaluation"):
        restore(tmp_path, "best")


def test_a_manifest_that_was_edited_by_hand_is_damaged(tmp_path):
    save(tmp_path, 1, some_state(1), META)
    path = tmp_path / "step_000001" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"best": 5}))
    with pytest.raises(DataError, match="does not match its own digest"):
        restore(tmp_path, 1)


def test_a_manifest_of_a_later_format_is_not_guessed_at(tmp_path):
    save(tmp_path, 1, some_state(1), META)
    path = tmp_path / "step_000001" / "manifest.json"
    manifest = json.loads(path.read_text())
    content = {key: value for key, value in manifest.items() if key not in ("digest", "files")} | {"format": 2}
    path.write_text(json.dumps(content | {"digest": digest_of_description(content), "files": manifest["files"]}))
    with pytest.raises(DataError, match="written in format 2, this dsrun reads 1"):
        restore(tmp_path)


def test_every_file_and_folder_is_flushed_before_the_rename_and_the_parent_after_it(tmp_path, monkeypatch):
    flushed: set[str] = set()
    fsync = os.fsync

    def note(descriptor: int) -> None:
        flushed.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def look(point: str) -> None:
        if point == "synced":
            aside = next(tmp_path.glob(".writing_*"))
            assert {str(path) for path in [aside, *aside.rglob("*")]} <= flushed
            flushed.clear()
        if point == "renamed":
            assert str(tmp_path) not in flushed
        if point == "committed":
            assert str(tmp_path) in flushed

    monkeypatch.setattr(os, "fsync", note)
    save(tmp_path, 1, some_state(1), META, fault=look)


def test_saving_a_state_that_is_there_already_writes_nothing(tmp_path):
    first = save(tmp_path, 1, some_state(1), META)
    before = [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in files_below(tmp_path)]
    assert save(tmp_path, 1, some_state(1), META) == first
    assert [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in files_below(tmp_path)] == before


def test_another_state_of_the_same_step_replaces_it_and_later_steps_do_not_crowd_it_out(tmp_path):
    save(tmp_path, 5, some_state(5), META)
    save(tmp_path, 6, some_state(6), META)
    save(tmp_path, 3, some_state(3), META)  # as after a resume from a step before 5
    save(tmp_path, 4, some_state(4), META)
    save(tmp_path, 5, some_state(0), META)
    assert available_steps(tmp_path) == [4, 5, 6]
    assert_same_bits(restore(tmp_path, 5).arrays, some_state(0))


WRITE_WITH_A_LIMIT = """
import resource, sys
from pathlib import Path
import numpy as np
from dsrun.errors import DataError
from dsrun.training.checkpoint import save

save(Path(sys.argv[1]), 1, {"u_r": np.zeros(10, np.float32)}, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save(Path(sys.argv[1]), 2, {"u_r": np.random.default_rng(0).random(100_000)}, {})
except DataError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_is_an_error_that_leaves_the_older_step_alone(tmp_path):
    assert resource.RLIMIT_FSIZE is not None
    found = subprocess.run(
        [sys.executable, "-c", WRITE_WITH_A_LIMIT, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert "step_000002: the checkpoint could not be written: File too large. Steps" in found.stdout, found.stderr
    assert found.stderr == ""  # Orbax's threads have said nothing of their own
    assert "Steps on disk: [1]" in found.stdout
    assert os.listdir(tmp_path) == ["step_000001"]
    assert restore(tmp_path).step == 1


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"a/b": np.ones(1)}, "without '/'"),
        ({"a": {"": np.ones(1)}}, "not empty"),
        ({"a": 3.0}, "a: float is not an array; plain values belong in meta"),
        ({"a": {"b": np.array(["x"])}}, "a/b: <U1 is not a dtype of numbers"),
        ({"a": np.array([None])}, "object is not a dtype of numbers"),
    ],
)
def test_what_has_no_bits_to_keep_is_refused(tmp_path, state, text):
    with pytest.raises(ValueError, match=text):
        save(tmp_path, 1, state, {})
    assert os.listdir(tmp_path) == []


def test_a_disk_without_room_for_the_state_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, 1, some_state(1), META)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1000, 900, 100))
    with pytest.raises(
        DataError, match=r"No space left on device: 100 bytes free, 6,300 needed\. Steps on disk: \[1\]"
    ):
        save(tmp_path, 2, some_state(2), META)
    assert os.listdir(tmp_path) == ["step_000001"]
