"""Connection: one client's stream, from its first message to the last of its text.

Two tasks. One reads: it takes a message only when the one before is with the network, so a client that sends faster than the network works
is held back by its own socket, and no more of its sound is in memory than the dispatcher lets wait. One writes: text that is new while
it waits for the client is put together, so what waits is at most the text of `max_seconds`; a client that takes nothing for
`idle_seconds` is dropped (`server` sees to the socket). Whichever of them is refused, or fails, ends the other; the stream gives its slot
back in any case.

The dispatcher calls from its own thread. What it says is handed to the event loop, which does everything else.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32
from starlette.websockets import WebSocket, WebSocketDisconnect

from dsrun.errors import DataError, DsrunError
from dsrun.serving.dispatch import Dispatcher, Heard, Stream
from dsrun.serving.errors import NetworkFailed, Stopped, StreamEnded, TooManyStreams
from dsrun.serving.limits import Limits
from dsrun.serving.protocol import (
    BUSY,
    DONE,
    FAILED,
    LIMIT,
    MALFORMED,
    STOPPING,
    Refused,
    read_beginning,
    read_samples,
)

LOOK_AGAIN_SECONDS = 0.02  # whether the network has room
LAST_WORD_SECONDS = 5.0  # for a client to take the message that says why
LONGEST_REASON = 120  # bytes; a close frame holds 123

Result = TypeVar("Result")


class Connection:
    """A WebSocket that was let in. `workers` do what takes longer than the event loop should be held up."""

    def __init__(self, socket: WebSocket, dispatcher: Dispatcher, limits: Limits, workers: Executor):
        self.socket, self.dispatcher, self.limits, self._workers = socket, dispatcher, limits, workers
        self._outgoing = Outgoing()

    async def serve(self) -> None:
        """All of it; the socket is closed afterwards."""
        stream: Stream | None = None
        try:
            rate = read_beginning(await self._message())
            stream = await self._open()
            async with asyncio.timeout(self.limits.stream_clock_seconds):
                await self._talk(stream, rate)
            await self._close(DONE, "")
        except Refused as refusal:
            await self._refuse(refusal)
        except TimeoutError:
            await self._refuse(
                Refused(LIMIT, f"the stream lasted {self.limits.stream_clock_seconds:g} s by the clock, the most.")
            )
        except WebSocketDisconnect:
            pass  # the client has left, and needs no answer
        finally:
            if stream is not None:
                stream.close()

    async def _open(self) -> Stream:
        loop = asyncio.get_running_loop()
        hand_on = _calling(loop, self._outgoing.add)
        fail = _calling(loop, lambda error: self._outgoing.fail(_refusal_of(error)))
        try:
            return await self._run(lambda: self.dispatcher.open(hand_on, fail))
        except DsrunError as error:
            raise _refusal_of(error) from None

    async def _talk(self, stream: Stream, rate: int) -> None:
        reading = asyncio.create_task(self._read(stream, rate))
        writing = asyncio.create_task(self._write(stream))
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
            reading.result() if reading.done() else reading.cancel()
            await writing
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def _read(self, stream: Stream, rate: int) -> None:
        """Sound to the network, to its end."""
        sound = Sound(rate, stream_rate=self.dispatcher.hearing.features.sample_rate)
        try:
            while (samples := read_samples(await self._message())) is not None:
                if sound.seconds_with(samples) > self.limits.max_seconds:
                    raise Refused(LIMIT, f"the sound is longer than {self.limits.max_seconds:g} s, the most.")
                await self._push(stream, sound, samples)
            await self._push(stream, sound, None)
            await self._run(stream.finish)
        except StreamEnded:
            # The dispatcher ended it; it has said why, and the other task tells the client.
            await asyncio.Event().wait()
        except DsrunError as error:
            raise _refusal_of(error) from None

    async def _push(self, stream: Stream, sound: "Sound", samples: np.ndarray | None) -> None:
        """Samples, or None for the end, in pieces that the dispatcher takes."""
        converted = await self._run(lambda: sound.convert(samples))
        size = self.dispatcher.hearing.features.sample_rate  # a second
        for start in range(0, len(converted), size):
            while not stream.wait_for_room(0):
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
            piece = converted[start : start + size]
            await self._run(lambda piece=piece: stream.push(piece))  # type: ignore[misc]

    async def _write(self, stream: Stream) -> None:
        """Text to the client, to its end."""
        while True:
            heard = await self._outgoing.next()
            document = {"new": heard.new, "seconds": round(heard.seconds, 3), "is_final": heard.is_final}
            if heard.is_final:
                document["text"] = stream.text
            await self._send(document)
            if heard.is_final:
                return

    async def _message(self) -> dict[str, Any]:
        """What the client says next. Raises Refused if it says nothing, WebSocketDisconnect if it has left."""
        try:
            async with asyncio.timeout(self.limits.idle_seconds):
                message = await self.socket.receive()
        except TimeoutError:
            raise Refused(LIMIT, f"nothing came for {self.limits.idle_seconds:g} s.") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        return dict(message)

    async def _send(self, document: dict[str, Any], *, seconds: float | None = None) -> None:
        limit = self.limits.idle_seconds if seconds is None else seconds
        try:
            async with asyncio.timeout(limit):
                await self.socket.send_text(json.dumps(document, ensure_ascii=False))
        except TimeoutError:
            raise Refused(LIMIT, f"nothing of what was sent was taken for {limit:g} s.") from None

    async def _refuse(self, refusal: Refused) -> None:
        with contextlib.suppress(Refused, WebSocketDisconnect):
            await self._send(refusal.to_json(), seconds=LAST_WORD_SECONDS)
            await self._close(refusal.code, refusal.reason)

    async def _close(self, code: int, reason: str) -> None:
        shown = reason.encode()[:LONGEST_REASON].decode(errors="ignore")
        # RuntimeError: the client, or the server as it stops, was quicker.
        with contextlib.suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(LAST_WORD_SECONDS):
                await self.socket.close(code, shown)

    async def _run(self, work: Callable[[], Result]) -> Result:
        try:
            future = asyncio.get_running_loop().run_in_executor(self._workers, work)
        except RuntimeError:  # the workers have gone: the service stopped while the client was silent
            raise Refused(STOPPING, "the service is stopping.") from None
        return await future


class Outgoing:
    """What the dispatcher has said and the client has not been sent: put together, so that it stays small."""

    def __init__(self) -> None:
        self._heard: Heard | None = None
        self._refusal: Refused | None = None
        self._changed = asyncio.Event()

    def add(self, heard: Heard) -> None:
        """Text that is new."""
        new = self._heard.new + heard.new if self._heard else heard.new
        self._heard = Heard(new, heard.seconds, heard.is_final)
        self._changed.set()

    def fail(self, refusal: Refused) -> None:
        """The stream was ended by the service."""
        self._refusal = refusal
        self._changed.set()

    async def next(self) -> Heard:
        """Everything since the last call, as soon as there is something. Raises Refused when all before it was handed out."""
        await self._changed.wait()
        self._changed.clear()
        heard, self._heard = self._heard, None
        if heard is not None:
            if self._refusal is not None:
                self._changed.set()
            return heard
        assert self._refusal is not None
        raise self._refusal


class Sound:
    """A client's samples at the model's rate, by the converter of `dsrun transcribe`."""

    def __init__(self, rate: int, *, stream_rate: int):
        import soxr

        self.rate, self._num_samples = rate, 0
        self._resampler = None if rate == stream_rate else soxr.ResampleStream(rate, stream_rate, 1, dtype="float32")

    def seconds_with(self, samples: np.ndarray) -> float:
        """Of sound, once these are taken in."""
        self._num_samples += len(samples)
        return self._num_samples / self.rate

    def convert(self, samples: Float32[np.ndarray, " _"] | None) -> Float32[np.ndarray, " _"]:
        """Samples that follow; None is the end, and what the converter kept for itself."""
        nothing = np.zeros(0, np.float32)
        if self._resampler is None:
            return nothing if samples is None else samples
        return self._resampler.resample_chunk(nothing if samples is None else samples, last=samples is None)


def _calling(loop: asyncio.AbstractEventLoop, function: Callable[[Any], None]) -> Callable[[Any], None]:
    def call(value: Any) -> None:
        # RuntimeError: the loop is closed, and so is every connection.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(function, value)

    return call


def _refusal_of(error: DsrunError) -> Refused:
    """What a client is told where the dispatcher says no."""
    kinds: tuple[tuple[type[DsrunError], int], ...] = (
        (TooManyStreams, BUSY), (Stopped, STOPPING), (NetworkFailed, FAILED), (DataError, MALFORMED),
    )  # fmt: skip
    return Refused(next((code for kind, code in kinds if isinstance(error, kind)), FAILED), str(error))
