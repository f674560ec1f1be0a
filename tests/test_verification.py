"""What a repetition is compared with, by the kinds of records that a run has; the repetition itself is tests/end_to_end/test_bits.py's."""

import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "training"))
from test_step import make_step

from dsrun.errors import UsageError
from dsrun.record import EventLog
from dsrun.record.tensor_hashes import TensorHashLog, combined_hash
from dsrun.study.run_record import read_run
from dsrun.training.saver import host_copy
from dsrun.training.state import StepRecord
from dsrun.training.state_digest import digest_of_tensors
from dsrun.training.state_hash import StateHasher, as_words, tensor_names
from dsrun.verification import Recorded


@pytest.fixture(scope="module")
def state():
    return make_step().initial_state()


@pytest.fixture(scope="module")
def other(state):
    """The state with another value of one of its smallest tensors."""
    return replace(state, finite_steps=jnp.int32(1))


def figures(loss: float) -> StepRecord:
    return StepRecord(**dict.fromkeys(StepRecord.__dataclass_fields__, jnp.float32(0)) | {"loss": jnp.float32(loss)})


def write(folder, state, *, kinds, steps=(2, 4)):
    events = EventLog(folder / "events.jsonl")
    log = TensorHashLog(folder / "tensor_hashes.bin", tensor_names(state))
    for step in steps:
        fields = {"loss": 0.5} if "losses" in kinds else {}
        words = as_words(StateHasher()(state))
        if "tensor hashes" in kinds:
            fields["state_hash"] = log.append(step, words)
        elif "state hashes" in kinds:
            fields["state_hash"] = combined_hash(log.names, words)
        events.append("step", step, **fields)
        if "state digests" in kinds:
            events.append("digest", step, digest=digest_of_tensors(host_copy(state.to_dict())))
    events.close()
    log.close()
    return read_run(folder, {})


KINDS = ("tensor hashes", "state hashes", "state digests", "losses")


@pytest.mark.parametrize("strongest", range(4), ids=KINDS)
def test_the_strongest_kind_of_record_tells_an_equal_state_from_another(tmp_path, state, other, strongest):
    recorded = Recorded(write(tmp_path, state, kinds=KINDS[strongest:]), 10)
    assert (recorded.what, recorded.last) == (KINDS[strongest], 4)
    is_loss = KINDS[strongest] == "losses"
    assert recorded.differing(1, state, figures(0.5)) is None
    assert not recorded.differing(2, state, figures(0.5)).is_any
    assert recorded.differing(2, state, figures(0.25)).is_any == is_loss
    found = recorded.differing(4, other, figures(0.5))
    assert found.is_any != is_loss
    names = [row["name"] for row in found.tensors]
    assert names == (["finite_steps"] if KINDS[strongest] == "tensor hashes" else [])


def test_a_run_without_a_record_of_its_first_steps_cannot_be_verified(tmp_path, state):
    record = write(tmp_path, state, kinds=KINDS, steps=(20,))
    with pytest.raises(UsageError, match="no record of its first 10 steps"):
        Recorded(record, 10)
    assert Recorded(record, 20).last == 20
    assert np.all(record.hashes.steps == 20)
