"""Batch dispatch: streams push samples from any thread, one thread steps the network for all that have a chunk waiting.

Eager: when the device is free and a chunk waits, a step begins, with one chunk of every stream that has one, the longest waiting first
(Amodei et al. 2015 found this best). Batches grow by themselves with the load: while a step runs, others' chunks become full.

What each promises the others:

- A stream's logits do not depend on who else is in its steps: to the bit for integer networks. Those of float formats are summed in an
  order that follows the size of the step, and differ by the format's rounding; a text differs where two classes are as close as that
  (of 56 recordings none in float32 and float16, two in bfloat16).
- Who speaks faster than the network works is held back: `push` takes a block only while less than `most_waiting_seconds` of the stream's
  sound wait, and otherwise raises TooFast at once and takes nothing. It never blocks, so that it can be called from an event loop;
  a thread calls `wait_for_room` and pushes again. Memory is bounded by that and by the number of slots.
- Bad samples raise where they are pushed and go no further. A stream that is closed, wherever it stands, frees its slot, at the latest
  when the step that it is in is over. A callback that raises ends its own stream alone.
- An error of the network (say, no memory on the device) ends all open streams with NetworkFailed; the pool is emptied, and new streams
  can be opened. If it cannot be emptied either, opening says why.

Callbacks run in the stepping thread, one at a time, and hold everybody up while they run: hand the text on and return. One may still
come when `close` has been called, from a step that was under way. `stop` lets the step under way end, and tells the streams that are open.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dsrun.deploy.streams import PoolFull
from dsrun.errors import DsrunError, UsageError
from dsrun.serving.errors import NetworkFailed, Stopped, StreamEnded, TooFast, TooManyStreams
from dsrun.serving.figures import Figures
from dsrun.serving.session import Chunk, Hearing, Session
from dsrun.serving.stream import Heard, OnFailure, OnText, Stream

MOST_WAITING_SECONDS = 5.0


@runtime_checkable
class Pool(Protocol):
    """What is asked of `deploy.streams.StreamPool`."""

    most_streams: int

    def compile(self) -> None:
        """All sizes, before anybody speaks."""
        ...

    def open(self) -> int:
        """A free slot. Raises PoolFull."""
        ...

    def close(self, slot: int) -> None:
        """Give it back."""
        ...

    def restart(self) -> None:
        """Forget all streams."""
        ...

    def step(self, slots: Sequence[int], features: Any, num_frames: Any) -> list[np.ndarray]:
        """Fresh logits of each."""
        ...


@dataclass(frozen=True)
class _Work:
    """Streams that ended when all of their text was out already, and the chunks of one step."""

    over: list[Stream]
    chunks: list[tuple[Stream, Chunk]]


class Dispatcher:
    """The streams of one model.

    Args:
        most_waiting_seconds: of a stream's sound, at least a chunk. most_a_step: streams in a step; None is all that wait, 1 is
        serving without batches.
    """

    def __init__(
        self,
        pool: Pool,
        hearing: Hearing,
        *,
        most_waiting_seconds: float = MOST_WAITING_SECONDS,
        most_a_step: int | None = None,
    ):
        if most_waiting_seconds < hearing.chunk_seconds:
            raise UsageError(
                f"at most {most_waiting_seconds:g} s may wait, and a chunk is {hearing.chunk_seconds:g} s: no stream would ever be "
                "heard. Let more wait, or make chunks shorter."
            )
        self.pool, self.hearing = pool, hearing
        self.most_waiting_seconds, self.most_a_step = most_waiting_seconds, most_a_step
        self.figures = Figures()
        self._changed = threading.Condition()  # guards all that follows, and every session but its `features_of`
        self._streams: dict[int, Stream] = {}  # by slot
        self._in_step: set[int] = set()  # slots; the pool must not give these to others
        self._left: set[int] = set()  # of them, those whose stream is gone
        self._is_stopping = False
        self._broken: str | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> "Dispatcher":
        """Compile, then listen."""
        assert self._thread is None, "a dispatcher is started once"
        self.pool.compile()
        self._thread = threading.Thread(target=self._work, name="dispatch", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Let the step under way end; streams that are open are told Stopped. May be called again."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread not in (None, threading.current_thread()):
            self._thread.join()

    def __enter__(self) -> "Dispatcher":
        return self if self._thread else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def open_streams(self) -> int:
        """Streams that are not over."""
        with self._changed:
            return len(self._streams)

    @contextmanager
    def counting(self) -> Iterator[Figures]:
        """The figures, as long as nothing more is counted: everybody waits."""
        with self._changed:
            yield self.figures

    def figures_json(self) -> dict[str, Any]:
        """What was counted so far, as one moment has it."""
        with self.counting() as figures:
            return figures.to_json()

    def open(self, on_text: OnText, on_failure: OnFailure) -> Stream:
        """A new stream.

        Raises:
            TooManyStreams: all slots are taken. Stopped: nobody would listen. NetworkFailed: it failed for good.
        """
        with self._changed:
            while True:
                self._require_listening()
                try:
                    slot = self.pool.open()
                    break
                except PoolFull:
                    if not self._left or threading.current_thread() is self._thread:
                        most = self.pool.most_streams
                        raise TooManyStreams(
                            f"{most} streams are open, which is all there is room for. Come again later, or serve more."
                        ) from None
                    self._changed.wait()  # a slot is free as soon as the step is over
            stream = self._streams[slot] = Stream(self, slot, on_text, on_failure)
            self.figures.opened += 1
            return stream

    # What streams ask.

    def _push(self, stream: Stream, samples: np.ndarray, spoken_at: float | None) -> None:
        with self._changed:
            self._require_open(stream)
            if not self._has_room(stream):
                self.figures.refused_blocks += 1
                raise TooFast(
                    f"{stream.session.waiting_seconds:g} s of sound wait to be heard, at most {self.most_waiting_seconds:g} s "
                    "may: send no faster than the sound was spoken, or wait."
                )
            longest = self.most_waiting_seconds
            if len(samples) > longest * self.hearing.features.sample_rate:
                raise UsageError(f"a block of {len(samples)} samples is longer than {longest:g} s: push it in pieces.")
        frames = stream.session.features_of(samples)
        with self._changed:
            self._require_open(stream)
            stream.session.add(frames, at=time.monotonic(), spoken_at=spoken_at)
            if stream.session.waiting_since is not None:
                self._changed.notify_all()

    def _wait_for_room(self, stream: Stream, seconds: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: not stream.is_open or self._has_room(stream), timeout=seconds)
            self._require_open(stream)
            return self._has_room(stream)

    def _finish(self, stream: Stream) -> None:
        with self._changed:
            self._require_open(stream)
        frames = stream.session.last_features()
        with self._changed:
            self._require_open(stream)
            now = time.monotonic()
            stream.session.add(frames, at=now)
            stream.session.end(at=now)
            self._changed.notify_all()

    def _close(self, stream: Stream) -> None:
        with self._changed:
            if stream.is_open:
                self._remove(stream)

    def _has_room(self, stream: Stream) -> bool:
        return stream.session.waiting_seconds < self.most_waiting_seconds

    def _require_open(self, stream: Stream) -> None:
        if not stream.is_open:
            raise StreamEnded("the stream is over and takes no more samples. Open another one.")

    def _require_listening(self) -> None:
        if self._broken:
            raise NetworkFailed(self._broken)
        if self._is_stopping or self._thread is None:
            raise Stopped("the service is stopping." if self._is_stopping else "the service was not started.")

    # The stepping thread.

    def _work(self) -> None:
        # A function call a step: names in this loop would keep the streams of the last one from being forgotten.
        while self._work_once():
            pass
        self._end_all(lambda: Stopped("the service is stopping; what was said up to here was heard."))

    def _work_once(self) -> bool:
        """Wait for work and do it; whether there may be more."""
        work = self._next_work()
        if work is None:
            return False
        for stream in work.over:
            self._tell(stream, "", time.monotonic())
        if work.chunks:
            self._step(work.chunks)
        with self._changed:
            self._end_step()
        return True

    def _next_work(self) -> "_Work | None":
        """Wait for it; None when it is time to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping or self._waiting())
            if self._is_stopping:
                return None
            waiting = self._waiting()
            over = [stream for stream in waiting if stream.session.is_finished]
            batch = [stream for stream in waiting if stream not in over][: self.most_a_step]
            self._in_step = {stream.slot for stream in batch}
            return _Work(over, [(stream, stream.session.next_chunk()) for stream in batch])

    def _waiting(self) -> list[Stream]:
        """Streams that have something for the thread to do, the longest waiting first."""
        since = [(_since(stream.session), slot) for slot, stream in self._streams.items()]
        return [self._streams[slot] for _, slot in sorted((when, slot) for when, slot in since if when is not None)]

    def _step(self, chunks: list[tuple[Stream, Chunk]]) -> None:
        start = time.monotonic()
        try:
            found = self.pool.step(
                [stream.slot for stream, _ in chunks],
                np.stack([chunk.features for _, chunk in chunks]),
                np.array([chunk.num_frames for _, chunk in chunks], np.int32),
            )
        except Exception as error:
            # Whatever it is, nobody's logits can be trusted, and the process goes on answering.
            return self._fail(error, len(chunks))
        with self._changed:
            self.figures.add_step(len(chunks), time.monotonic() - start)
        for (stream, chunk), logits in zip(chunks, found, strict=True):
            self._hear(stream, chunk, logits)

    def _hear(self, stream: Stream, chunk: Chunk, logits: np.ndarray) -> None:
        with self._changed:
            new = stream.session.hear(logits)
            is_final, now = stream.session.is_finished, time.monotonic()
            if chunk.is_full:
                self.figures.add_chunk(now, chunk.since)
        if new or is_final:
            self._tell(stream, new, now)

    def _tell(self, stream: Stream, new: str, now: float) -> None:
        """Hand text on; a stream that is finished is over."""
        session = stream.session
        with self._changed:
            if not stream.is_open:
                return
            heard = Heard(new, session.heard_seconds, session.is_finished)
            if heard.is_final:
                assert session.ended_at is not None
                self.figures.endings.append((now, now - session.ended_at))
                self.figures.finished += 1
                self._remove(stream)
        try:
            stream.on_text(heard)
        except Exception as error:
            # The stream's own side is broken; it is over, and nobody else's text is held up.
            self._lose(
                stream, DsrunError(f"the stream's text could not be handed on ({type(error).__name__}: {error}).")
            )

    def _lose(self, stream: Stream, error: DsrunError) -> None:
        with self._changed:
            self.figures.failed += 1
            if stream.is_open:
                self._remove(stream)
        _tell_failure(stream, error)

    def _fail(self, error: Exception, streams: int) -> None:
        """The network failed: everybody is told, and the pool begins anew."""
        first_line = (str(error).strip().splitlines() or [""])[0]
        reason = f"the network failed in a step of {streams} streams ({type(error).__name__}: {first_line})"
        with self._changed:
            try:
                self.pool.restart()
            except Exception as second:
                self._broken = (
                    f"{reason}, and could not begin anew ({type(second).__name__}: {second}). Restart the service."
                )
            # The pool has forgotten all slots, so none is given back.
            lost, self._streams = list(self._streams.values()), {}
            self._in_step, self._left = set(), set()
            self.figures.failed += len(lost)
            for stream in lost:
                stream.is_open = False
            self._changed.notify_all()
        for stream in lost:
            _tell_failure(stream, NetworkFailed(self._broken or f"{reason}. Open the stream again."))

    def _end_all(self, make: Callable[[], DsrunError]) -> None:
        with self._changed:
            lost = list(self._streams.values())
            self._end_step()
            for stream in lost:
                self._remove(stream)
        for stream in lost:
            _tell_failure(stream, make())

    def _remove(self, stream: Stream) -> None:
        """A stream is over; its slot is free, or will be after the step that has it."""
        stream.is_open = False
        del self._streams[stream.slot]
        if stream.slot in self._in_step:
            self._left.add(stream.slot)
        else:
            self.pool.close(stream.slot)
        self._changed.notify_all()

    def _end_step(self) -> None:
        for slot in self._left:
            self.pool.close(slot)
        self._in_step, self._left = set(), set()
        self._changed.notify_all()


def _since(session: Session) -> float | None:
    """Since when a stream has something for the thread to do: a chunk, or an end that has not been told."""
    return session.ended_at if session.is_finished else session.waiting_since


def _tell_failure(stream: Stream, error: DsrunError) -> None:
    try:
        stream.on_failure(error)
    except Exception:
        # Nobody is left to be told: the stream is over already, and the others must go on.
        return
