"""Uploads: audio files that come whole, each to a file on the disk and then, one after another, through the network.

How long a body is, its sender may say wrongly or not at all, so it is counted while it comes. It is written to a temporary file, because
decoders must seek, and removed however the request ends. One file is recognised at a time; `most_uploads` are under way, others are
told to come later. A client that leaves, or whose time is up, is worked for no longer: the recogniser asks between two pieces of a file.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from dsrun.errors import DataError, DsrunError
from dsrun.serving.limits import Limits

DISCARD_SECONDS = 2.0  # a body that is too large is read so long, so that most senders get to read why
NAME = "upload"  # what messages call the file
FORMS = ("multipart/form-data",)

IsWanted = Callable[[], bool]
Transcribe = Callable[[Path, str, IsWanted], dict[str, Any]]  # file, its name in messages, whether anybody still waits


class Unwanted(Exception):
    """Nobody waits for the result."""


class UploadRefused(Exception):
    """HTTP status, and why in words."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass
class UploadFigures:
    """What was counted; `seconds` of sound, `busy_seconds` of recognising."""

    under_way: int = 0
    done: int = 0
    refused: int = 0
    seconds: float = 0.0
    busy_seconds: float = 0.0


@dataclass
class Uploads:
    """The files of a service.

    Args:
        transcribe: called in a thread of its own, one file at a time. Raises DsrunError for what cannot be recognised, Unwanted when
        nobody waits. folder: for the bodies.
    """

    transcribe: Transcribe
    limits: Limits
    folder: Path
    figures: UploadFigures = field(default_factory=UploadFigures)

    def __post_init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="uploads")
        self._numbers = itertools.count()
        self._is_stopping = False

    def stop(self) -> None:
        """Begin nothing more; what is under way is given up."""
        self._is_stopping = True
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer a POST."""
        try:
            with self._place():
                return JSONResponse(await self._answer(request))
        except UploadRefused as refusal:
            self.figures.refused += 1
            headers = {"Retry-After": "5"} if refusal.status == 503 else None
            return JSONResponse({"error": refusal.reason}, refusal.status, headers)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self._is_stopping:
            raise UploadRefused(503, "the service is stopping.")
        if self.figures.under_way >= self.limits.most_uploads:
            raise UploadRefused(
                503, f"{self.figures.under_way} files are under way, the most. Come again in a few seconds."
            )
        self.figures.under_way += 1
        try:
            yield
        finally:
            self.figures.under_way -= 1

    async def _answer(self, request: Request) -> dict[str, Any]:
        deadline = time.monotonic() + self.limits.request_seconds
        path = self.folder / f"upload-{next(self._numbers)}"
        try:
            await self._receive(request, path, deadline)
            return await self._recognise(request, path, deadline)
        finally:
            path.unlink(missing_ok=True)

    async def _receive(self, request: Request, path: Path, deadline: float) -> None:
        """The body into a file. Raises UploadRefused, at once where the header says already that it is too large."""
        _refuse_forms(request)
        limit, body = self.limits.max_bytes, _Body(request, self.limits.idle_seconds)
        stated = request.headers.get("content-length", "")
        if stated.isascii() and stated.isdecimal() and len(stated) < 20 and int(stated) > limit:
            await self._too_large(body, int(stated))
        try:
            with path.open("wb") as file:
                async for piece in body.pieces(deadline):
                    if body.count > limit:
                        await self._too_large(body, body.count)
                    file.write(piece)
        except OSError as error:
            raise UploadRefused(
                503, f"the service cannot keep the file ({error.strerror}). Come again later."
            ) from None
        if not body.count:
            raise UploadRefused(400, "the body is empty; send an audio file as it is: curl --data-binary @FILE URL")

    async def _too_large(self, body: "_Body", count: int) -> None:
        with contextlib.suppress(UploadRefused):
            async for _ in body.pieces(time.monotonic() + DISCARD_SECONDS):
                pass
        raise UploadRefused(
            413,
            f"{count} bytes are more than {self.limits.max_megabytes:g} MB, the most. Cut or compress the recording.",
        )

    async def _recognise(self, request: Request, path: Path, deadline: float) -> dict[str, Any]:
        is_given_up = False

        def is_wanted() -> bool:
            return not is_given_up and not self._is_stopping

        try:
            work: asyncio.Future[Any] = asyncio.get_running_loop().run_in_executor(
                self._worker, self._work, path, is_wanted
            )
        except RuntimeError:  # the worker has gone: the service stopped while the body came
            raise UploadRefused(503, "the service is stopping.") from None
        leaving: asyncio.Future[Any] = asyncio.create_task(_until_disconnected(request.receive))
        try:
            await asyncio.wait(
                {work, leaving}, timeout=max(0.0, deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            if work.done():
                return work.result()
            if leaving.done():
                raise UploadRefused(499, "the client left.")
            raise UploadRefused(504, f"no text within {self.limits.request_seconds:g} s, the most. Cut the recording.")
        except DataError as error:
            raise UploadRefused(422, str(error)) from None
        except DsrunError as error:
            raise UploadRefused(500, str(error)) from None
        except (Unwanted, asyncio.CancelledError):
            raise UploadRefused(503, "the service is stopping.") from None
        finally:
            is_given_up = True
            # The thread leaves at its next piece; the file that it has open stays readable when its name is gone.
            work.cancel()
            leaving.cancel()

    def _work(self, path: Path, is_wanted: IsWanted) -> dict[str, Any]:
        if not is_wanted():
            raise Unwanted
        started = time.monotonic()
        found = self.transcribe(path, NAME, is_wanted)
        took = time.monotonic() - started
        self.figures.done += 1
        self.figures.seconds += found["seconds"]
        self.figures.busy_seconds += took
        return found | {"recognising_seconds": round(took, 3)}


class _Body:
    """A body as it comes; `count` bytes of it so far."""

    def __init__(self, request: Request, idle_seconds: float):
        self.count, self._is_over = 0, False
        self._request, self._idle_seconds = request, idle_seconds

    async def pieces(self, deadline: float) -> AsyncIterator[bytes]:
        """What has not come yet. Raises UploadRefused where it does not come in time."""
        while not self._is_over:
            left = deadline - time.monotonic()
            try:
                async with asyncio.timeout(min(self._idle_seconds, max(left, 0.0))):
                    message = await self._request.receive()
            except TimeoutError:
                why = "nothing more came" if left > self._idle_seconds else "the request's time was over"
                raise UploadRefused(408, f"the file did not come whole: {why}.") from None
            if message["type"] == "http.disconnect":
                raise UploadRefused(499, "the client left.")
            self._is_over = not message.get("more_body")
            self.count += len(message.get("body", b""))
            yield message.get("body", b"")


async def _until_disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _refuse_forms(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in FORMS:
        raise UploadRefused(415, f"a form ({kind}); send the audio file itself: curl --data-binary @FILE URL")
