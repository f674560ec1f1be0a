"""Simulated clients speak at the speed of sound, and who cannot keep up with them is told from who can. No test asserts a time."""

import time

import numpy as np
import pytest

from dsrun.serving.dispatch import Dispatcher
from dsrun.serving.errors import NetworkFailed
from dsrun.serving.load import Client, Load, _growth, speak
from tests.serving.speakers import RATE, GatedPool, hearing_of

CLIPS = [np.full(RATE // 4, 0.1, np.float32), np.full(RATE // 5, 0.2, np.float32)]


class FreePool(GatedPool):
    """Steps that take so many seconds each."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.allowed.release(100_000)
        self.seconds = seconds

    def step(self, slots, features, num_frames):
        time.sleep(self.seconds)
        return super().step(slots, features, num_frames)


def spoken(pool, load, **options):
    with Dispatcher(pool, hearing_of(pool), **options) as dispatcher:
        return speak(dispatcher, CLIPS, load), dispatcher


def test_clients_speak_one_recording_after_another_and_no_faster_than_sound():
    outcome, dispatcher = spoken(FreePool(), Load(streams=3, seconds=0.9, block=80, seed=1))
    assert outcome.too_slow == ""
    assert 0 < outcome.heard_seconds <= 3 * outcome.seconds
    assert min(outcome.latencies) > 0
    assert len(outcome.endings) >= 3
    assert dispatcher.figures.opened > 3
    assert sum(size * count for size, count in outcome.batches.items()) >= dispatcher.figures.num_chunks
    assert set(outcome.batches) <= {1, 2, 3}
    assert dispatcher.open_streams == 0
    assert len(dispatcher.pool.free) == 4


def test_a_network_slower_than_sound_is_told_and_not_given_a_latency():
    # A step of 100 ms takes in 40 ms of sound: what waits grows until no more may.
    outcome, _ = spoken(FreePool(0.1), Load(streams=1, seconds=60.0, block=80, seed=1), most_waiting_seconds=0.05)
    assert outcome.too_slow == "a stream had 0.05 s of sound waiting"
    assert outcome.seconds < 60.0


def test_latency_that_grows_by_more_than_a_chunk_is_no_latency():
    rising = list(np.linspace(0.01, 0.5, 40))
    assert _growth(rising, 0.2) == "latency grew from 67 to 443 ms"
    assert _growth(rising, 0.4) == ""
    assert _growth([0.1, 5.0, 0.1, 0.1] * 10, 0.2) == "", "one chunk in four waited, and it does not grow"
    assert _growth([], 0.2) == "no chunk's text came"
    assert _growth([0.1], 0.2) == ""


def test_a_network_that_fails_ends_the_measurement_with_its_words():
    pool = FreePool()
    pool.fails = True
    with pytest.raises(NetworkFailed, match="RESOURCE_EXHAUSTED"):
        spoken(pool, Load(streams=1, seconds=60.0, block=80, seed=1))


def test_where_and_when_clients_begin_follows_from_the_seed_alone():
    dispatcher, starts = Dispatcher(FreePool(), hearing_of(FreePool())), []
    for seed in (1, 1, 2):
        clients = [Client(dispatcher, CLIPS, Load(2, 0.1, 80, seed), number) for number in range(2)]
        starts.append([(client.starts_after, client._place, tuple(client._order)) for client in clients])
    assert starts[0] == starts[1] != starts[2]
    assert starts[0][0] != starts[0][1]
