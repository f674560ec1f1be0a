"""Simulated clients: each speaks one recording after another at the speed of sound, as so many people would.

A client begins somewhere in a chunk and somewhere in its first recording, drawn by a seed, so that clients are not in step; a block of
samples is sent when its last sample has been spoken. At a recording's end the stream is finished, and when the last of its text has come
the client opens another one. All clients are one thread: a heap of who sends next, and when.

The latency of a chunk is from when the last sample that it needs was spoken until its text is out. Whatever makes that later counts: the
rest of the block, clients that the machine has no time for, features, the queue, the step.

A machine that cannot keep up has no latency: it grows as long as one measures. Two signs: a stream had more sound waiting than it may
(`Dispatcher`), or chunks at the end took longer than those at the beginning by more than a chunk lasts.
"""

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dsrun.errors import DsrunError
from dsrun.serving.dispatch import Dispatcher, Heard, Stream
from dsrun.serving.errors import TooFast


@dataclass(frozen=True)
class Load:
    """How many streams, for how long (of sound), in blocks of so many samples; `seed` says where each begins."""

    streams: int
    seconds: float
    block: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a load found.

    Fields:
        latencies, endings: seconds, in the order of time: of chunks, and from streams' ends to the last of their text. seconds: the
        measurement took. heard_seconds: sound that went into chunks. busy_seconds: in steps. clients_seconds: a processor's, of the
        clients and the features of what they said. too_slow: why there is no latency; "" if there is.
    """

    latencies: list[float]
    endings: list[float]
    seconds: float
    heard_seconds: float
    busy_seconds: float
    clients_seconds: float
    steps: int
    batches: dict[int, int]
    too_slow: str


class Client:
    """One of them."""

    def __init__(self, dispatcher: Dispatcher, recordings: Sequence[np.ndarray], load: Load, number: int):
        self._dispatcher, self._recordings, self._block = dispatcher, recordings, load.block
        self._rate = dispatcher.hearing.features.sample_rate
        random = np.random.Generator(np.random.Philox(key=[load.seed, number]))
        self._order = random.permutation(len(recordings))
        self.starts_after = float(random.uniform(0.0, dispatcher.hearing.chunk_seconds))
        room = len(recordings[self._order[0]]) - dispatcher.hearing.samples_needed(
            0
        )  # a chunk at least is left to speak
        self._place = int(random.uniform(0.0, max(0, room)))
        self._turn = 0
        self._stream: Stream | None = None
        self._began = 0.0  # when the sample at `_first` of the recording would be the first spoken
        self._first = 0
        self._is_over = False
        self.failure: DsrunError | None = None

    def act(self, due: float) -> float:
        """Do what is due at a moment; the next moment. Raises TooFast."""
        if self._stream is None:
            self._begin(due)
        elif self._is_over:
            self._turn, self._place, self._stream = self._turn + 1, 0, None
            return due
        elif self._place >= len(self._recording):
            return due + self._block / self._rate  # its last text has not come yet
        else:
            self._send(due)
        return self._next_due(due)

    @property
    def _recording(self) -> np.ndarray:
        return self._recordings[self._order[self._turn % len(self._order)]]

    def _begin(self, now: float) -> None:
        self._is_over = False
        self._stream = self._dispatcher.open(self._on_text, self._on_failure)
        self._began, self._first = now, self._place

    def _send(self, due: float) -> None:
        assert self._stream is not None
        block = self._recording[self._place : self._place + self._block]
        self._stream.push(block, spoken_at=due)
        self._place += len(block)
        if self._place >= len(self._recording):
            self._stream.finish()

    def _next_due(self, due: float) -> float:
        """When the last sample of the next block has been spoken."""
        if self._place >= len(self._recording):
            return due + self._block / self._rate
        spoken = min(self._place + self._block, len(self._recording)) - self._first
        return self._began + spoken / self._rate

    def _on_text(self, heard: Heard) -> None:
        self._is_over = heard.is_final

    def _on_failure(self, error: DsrunError) -> None:
        self.failure = error


def speak(dispatcher: Dispatcher, recordings: Sequence[np.ndarray], load: Load) -> Outcome:
    """Let clients speak to a dispatcher that was started, which nobody else speaks to.

    Args:
        recordings: samples at the model's rate, each longer than a window.

    Raises:
        DsrunError: a stream was ended by the dispatcher (the network failed).
    """
    clients = [Client(dispatcher, recordings, load, number) for number in range(load.streams)]
    start, clients_before = time.monotonic(), time.thread_time()
    moments = [(start + client.starts_after, number) for number, client in enumerate(clients)]
    heapq.heapify(moments)
    too_slow = ""
    while moments[0][0] < start + load.seconds:
        due, number = heapq.heappop(moments)
        time.sleep(max(0.0, due - time.monotonic()))
        client = clients[number]
        if client.failure is not None:
            raise client.failure
        try:
            heapq.heappush(moments, (client.act(due), number))
        except TooFast:
            too_slow = f"a stream had {dispatcher.most_waiting_seconds:g} s of sound waiting"
            break
    return _outcome(dispatcher, start, time.thread_time() - clients_before, too_slow)


def _outcome(dispatcher: Dispatcher, start: float, clients_seconds: float, too_slow: str) -> Outcome:
    stop = time.monotonic()
    with dispatcher.counting() as figures:
        # The first chunks of all come before the last client has begun.
        begun = start + 2.0 * dispatcher.hearing.chunk_seconds
        latencies = [latency for when, latency in figures.chunks if when >= begun] or [
            latency for _, latency in figures.chunks
        ]
        return Outcome(
            latencies=latencies,
            endings=[latency for _, latency in figures.endings],
            seconds=stop - start,
            heard_seconds=figures.num_chunks * dispatcher.hearing.chunk_seconds,
            busy_seconds=figures.busy_seconds,
            clients_seconds=clients_seconds,
            steps=figures.steps,
            batches=dict(figures.batches),
            too_slow=too_slow or _growth(latencies, dispatcher.hearing.chunk_seconds),
        )


def _growth(latencies: list[float], chunk_seconds: float) -> str:
    """Whether the last quarter of the chunks took longer than the first by more than a chunk lasts, in words."""
    quarter = len(latencies) // 4
    if not quarter:
        return "" if latencies else "no chunk's text came"
    first, last = (float(np.median(part)) for part in (latencies[:quarter], latencies[-quarter:]))
    if last - first <= chunk_seconds:
        return ""
    return f"latency grew from {1000.0 * first:.0f} to {1000.0 * last:.0f} ms"
