"""The file of tensor hashes is whole records, whatever ended the process, and after a resume that of an undisturbed run."""

import json

import numpy as np
import pytest

from dsrun.errors import DataError
from dsrun.record.tensor_hashes import TensorHashLog, combined_hash, read_tensor_hashes

NAMES = ("master/a", "master/b", "step")


def words(step: int) -> np.ndarray:
    return np.array([step, 2**64 - step, 2**63 + step], np.uint64)


def write(path, steps):
    log = TensorHashLog(path, NAMES)
    combined = [log.append(step, words(step)) for step in steps]
    log.close()
    return combined


def test_records_come_back_to_the_bit_and_numpy_alone_can_read_them(tmp_path):
    path = tmp_path / "tensor_hashes.bin"
    combined = write(path, [1, 2, 5])
    found = read_tensor_hashes(path)
    assert found.names == NAMES
    assert found.steps.tolist() == [1, 2, 5]
    assert [row.tolist() for row in found.words] == [words(step).tolist() for step in (1, 2, 5)]
    assert [found.combined(row) for row in range(3)] == combined
    assert np.fromfile(path, "<u8").reshape(-1, 1 + len(NAMES))[:, 0].tolist() == [1, 2, 5]


def test_the_combined_hash_depends_on_every_word_on_names_and_on_order():
    seen = {combined_hash(NAMES, words(1)), combined_hash((*NAMES[:2], "other"), words(1))}
    seen |= {combined_hash(NAMES[::-1], words(1)), combined_hash(NAMES, words(1)[::-1])}
    for place in range(3):
        for bit in range(64):
            changed = words(1)
            changed[place] ^= np.uint64(1 << bit)
            seen.add(combined_hash(NAMES, changed))
    assert len(seen) == 4 + 3 * 64
    assert all(len(text) == 16 for text in seen)


def test_a_file_cut_anywhere_in_its_last_record_loses_that_record_and_goes_on(tmp_path):
    path = tmp_path / "tensor_hashes.bin"
    write(path, [1, 2, 3])
    whole = path.read_bytes()
    for length in range(len(whole) * 2 // 3, len(whole)):
        path.write_bytes(whole[:length])
        assert read_tensor_hashes(path).steps.tolist() == [1, 2]
        write(path, [3])
        assert path.read_bytes() == whole


@pytest.mark.parametrize("step", [-1, 0, 1, 3, 4, 9])
def test_truncating_keeps_the_steps_up_to_one_and_appending_goes_on_there(tmp_path, step):
    path = tmp_path / "tensor_hashes.bin"
    write(path, [1, 3, 4, 6])
    log = TensorHashLog(path, NAMES)
    log.truncate_after(step)
    kept = [number for number in (1, 3, 4, 6) if number <= step]
    assert read_tensor_hashes(path).steps.tolist() == kept
    log.append(10, words(10))
    log.close()
    assert read_tensor_hashes(path).steps.tolist() == [*kept, 10]


def test_missing_files_have_no_records(tmp_path):
    assert len(read_tensor_hashes(tmp_path / "tensor_hashes.bin").steps) == 0
    write(tmp_path / "tensor_hashes.bin", [])
    assert read_tensor_hashes(tmp_path / "tensor_hashes.bin").names == NAMES


@pytest.mark.parametrize(
    "header",
    ["", "{", "[]", "{}", '{"format": 1, "names": 3}', '{"format": 1, "names": [3]}', '{"format": 9, "names": []}'],
)
def test_a_damaged_header_is_an_error_that_names_the_file(tmp_path, header):
    path = tmp_path / "tensor_hashes.bin"
    write(path, [1])
    path.with_suffix(".json").write_text(header)
    with pytest.raises(DataError, match=r"tensor_hashes\.json: "):
        read_tensor_hashes(path)


def test_records_out_of_order_are_damage_and_other_names_are_refused(tmp_path):
    path = tmp_path / "tensor_hashes.bin"
    write(path, [2, 1])
    with pytest.raises(DataError, match="record 2 is of step 1"):
        read_tensor_hashes(path)
    with pytest.raises(DataError, match="other tensors"):
        TensorHashLog(path, ("x", "y", "z"))
    assert json.loads(path.with_suffix(".json").read_text())["names"] == list(NAMES)
