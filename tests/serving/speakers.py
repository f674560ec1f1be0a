"""What tests of serving speak to: a tiny network, and a pool whose steps a test opens one by one."""

import threading
from dataclasses import replace
from functools import cache

import jax.numpy as jnp
import numpy as np

from dsrun.deploy.streams import UNKNOWN, PoolFull, StreamPool
from dsrun.serving.session import Hearing
from dsrun.speech import Alphabet, FeatureSettings, Normalization
from tests.deploy.networks import STACK, quantized, small, weights_of

RATE = 8000
FEATURES = FeatureSettings("log_mel", RATE, num_mels=6)
NORMALIZATION = Normalization(np.full(6, -12.0, np.float32), np.full(6, 1.0, np.float32))
ALPHABET = Alphabet(tuple(" abcdefg"))  # as many as the tiny network has classes, but for the blank
CHUNK = 3  # output frames


SHAPE = replace(small(STACK, direction="forward", lookahead=2), num_classes=9, layers=1, hidden=16)


def talkative(shape, seed=3):
    """Weights of a network that answers to every sound: its texts are noise, and as many as one likes."""
    weights, statistics = weights_of(shape, seed)
    random = np.random.default_rng(seed)
    for name in ("output_kernel", "lookahead_kernel"):
        weights[name] = jnp.asarray(random.normal(size=weights[name].shape), jnp.float32)
    return weights, statistics


@cache
def pool(format, most_streams=4):
    """Slots of the tiny forward network. Shared: what a test opens it closes."""
    return StreamPool(*quantized(SHAPE, format, weights=talkative), chunk=CHUNK, most_streams=most_streams)


def hearing_of(pool):
    return Hearing(FEATURES, NORMALIZATION, ALPHABET, pool.frames_a_chunk, pool.output_frames)


def sound(seconds, seed):
    """Tones that change every 50 ms, with some noise."""
    random = np.random.default_rng(seed)
    tones = random.uniform(100, 3500, round(20 * seconds) + 1).repeat(RATE // 20)[: round(RATE * seconds)]
    return (0.3 * np.sin(2 * np.pi * np.cumsum(tones) / RATE) + 0.01 * random.normal(size=len(tones))).astype(
        np.float32
    )


class GatedPool:
    """As many logits as frames, all of them class 1 at the first frame of a chunk; a step waits until the test lets it."""

    num_classes, frames_a_chunk = 9, 4

    def __init__(self, most_streams=4):
        self.most_streams = most_streams
        self.allowed, self.begun = threading.Semaphore(0), threading.Semaphore(0)
        self.batches, self.fails, self.cannot_restart = [], False, False
        self.restart()

    def output_frames(self, num_frames):
        return num_frames

    def compile(self):
        pass

    def restart(self):
        if self.fails and self.cannot_restart:
            raise RuntimeError("no memory at all")
        self.free = list(range(self.most_streams))

    def open(self):
        if not self.free:
            raise PoolFull("full")
        return self.free.pop(0)

    def close(self, slot):
        assert slot not in self.free
        self.free.append(slot)

    def step(self, slots, features, num_frames):
        self.batches.append(list(slots))
        self.begun.release()
        assert self.allowed.acquire(timeout=30)
        if self.fails:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand a trace")
        logits = np.zeros((len(slots), self.frames_a_chunk, self.num_classes), np.float32)
        logits[:, 0, 2], logits[:, 1:, 0] = 1.0, 1.0
        left = np.where(num_frames == UNKNOWN, 4, num_frames % 4)
        return [logits[row, : left[row]] for row in range(len(slots))]


class Ear:
    """What a stream was told."""

    def __init__(self):
        self.heard, self.failures, self.over = [], [], threading.Event()

    def on_text(self, heard):
        self.heard.append(heard)
        if heard.is_final:
            self.over.set()

    def on_failure(self, error):
        self.failures.append(error)
        self.over.set()

    @property
    def text(self):
        return "".join(heard.new for heard in self.heard)
