"""Service: the HTTP and WebSocket application around one model.

    GET  /             a page that records from the microphone and shows the text, and takes files
    GET  /health       what is served, what is open, limits and figures, as JSON
    POST /transcribe   the body is an audio file (WAV, FLAC, Ogg, MP3); its text and words, as JSON
    WS   /stream       sound as it is spoken, text as it is known (`protocol`); forward networks alone

Answers are JSON but for the page; one that says no is {"error": "..."} with a status that programs understand:

| status | why |
|---|---|
| 400, 415, 422 | no file, a form instead of one, a file that is no audio or is too long |
| 403, 421 | a page of another origin, or another host's name (`access`) |
| 404, 405 | no such path, or not with this method |
| 408, 504 | the body did not come in time, or its text was not known in time |
| 413 | the body is too large |
| 500 | a fault of the service; it goes on |
| 503 | too much at once, or the service stops; come again later |

Every request has a connection of its own, which is closed with its answer: there are no idle ones to count. `server` binds the application
to a socket and guards that; in tests it runs without one.
"""

import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from dsrun.serving.access import Access
from dsrun.serving.connection import Connection
from dsrun.serving.dispatch import Dispatcher
from dsrun.serving.limits import Limits
from dsrun.serving.protocol import WRONG_KIND, Refused
from dsrun.serving.uploads import Uploads

WORKERS = 4  # threads for features and resampling; Fourier transforms let other threads run
ALLOWED = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": "content-type"}


@dataclass
class Service:
    """What the application serves.

    Fields:
        about: of the model, for /health and the page. dispatcher: started; None where the network cannot be streamed, and
        `no_streams` then says why. connections: open ones, as `server` counts them.
    """

    about: dict[str, Any]
    dispatcher: Dispatcher | None
    no_streams: str | None
    uploads: Uploads
    limits: Limits
    access: Access
    connections: int = 0
    is_stopping: bool = False
    started_at: float = field(default_factory=time.monotonic)

    @cached_property
    def workers(self) -> ThreadPoolExecutor:
        """Threads that take work off the event loop."""
        return ThreadPoolExecutor(WORKERS, thread_name_prefix="hearing")

    def health(self) -> dict[str, Any]:
        """What /health says."""
        dispatcher = self.dispatcher
        streams = {"open": dispatcher.open_streams, "most": self.limits.most_streams} if dispatcher else None
        return self.about | {
            "status": "stopping" if self.is_stopping else "ok",
            "uptime_seconds": round(time.monotonic() - self.started_at, 3),
            "connections": self.connections,
            "streams": streams,
            "no_streams": self.no_streams,
            "limits": self.limits.to_json(),
            "figures": dispatcher.figures_json() if dispatcher else None,
            "uploads": asdict(self.uploads.figures),
        }

    def stop(self) -> None:
        """Tell everybody, and begin nothing new; returns when streams have been told."""
        self.is_stopping = True
        self.uploads.stop()
        if self.dispatcher:
            self.dispatcher.stop()
        self.workers.shutdown(wait=False, cancel_futures=True)


def make_app(service: Service) -> Starlette:
    """The application."""
    page = files("dsrun.serving").joinpath("page.html").read_text(encoding="utf-8")
    policy = content_policy(page)

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    async def health(request: Request) -> Response:
        return JSONResponse(service.health())

    async def transcribe(request: Request) -> Response:
        return await service.uploads(request)

    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        if service.dispatcher is None:
            refusal = Refused(WRONG_KIND, service.no_streams or "")
            await socket.send_json(refusal.to_json())
            await socket.close(refusal.code)
            return
        await Connection(socket, service.dispatcher, service.limits, service.workers).serve()

    async def say_no(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        there = "There are GET /, GET /health, POST /transcribe and the WebSocket /stream."
        return JSONResponse(
            {"error": f"{request.method} {request.url.path}: {error.detail}. {there}"}, error.status_code, error.headers
        )

    async def say_bug(request: Request, error: Exception) -> Response:
        # Starlette raises it again behind this answer, so the log has it whole.
        return JSONResponse({"error": f"a fault of the service ({type(error).__name__}); its log says where."}, 500)

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/health", health),
            Route("/transcribe", transcribe, methods=["POST"]),
            WebSocketRoute("/stream", stream),
        ],
        middleware=[Middleware(Gate, service=service)],
        exception_handlers={HTTPException: say_no, Exception: say_bug},
    )


def content_policy(page: str) -> str:
    """What the page may do: its own script and style, this service, and the audio worklet that it makes of its own text."""
    script, style = (
        "sha256-" + b64encode(sha256(_between(page, tag).encode()).digest()).decode() for tag in ("script", "style")
    )
    return (
        f"default-src 'none'; script-src '{script}' blob:; worker-src blob:; style-src '{style}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _between(page: str, tag: str) -> str:
    return page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]


class Gate:
    """Before everything: host, origin, and too many connections. Adds to every answer what holds for all of them."""

    def __init__(self, app: Any, service: Service):
        self.app, self.service = app, service

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Let a request in, or answer it."""
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        added = dict(HEADERS)
        if origin is not None and origin.lower() in self.service.access.origins:
            added |= {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}

        async def send_with(message: Any) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                own = [(name.lower().encode(), value.encode("latin-1")) for name, value in added.items()]
                message = message | {"headers": [*message.get("headers", []), *own]}
            await send(message)

        if answer := self._answer(scope, headers, "Access-Control-Allow-Origin" in added):
            if scope["type"] == "websocket":
                socket = WebSocket(scope, receive, send_with)
                await socket.receive()
                await socket.send_denial_response(answer)
                return
            await answer(scope, receive, send_with)
            return
        await self.app(scope, receive, send_with)

    def _answer(self, scope: dict[str, Any], headers: Headers, is_allowed: bool) -> Response | None:
        """What is said to who is not let in; None to the others."""
        access = self.service.access
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        host = hosts[0] if len(hosts) == 1 else None
        if problem := access.problem_with_host(host):
            return JSONResponse({"error": problem}, 421)
        origin = ", ".join(origins) if origins else None
        if problem := access.problem_with_origin(origin, host):
            return JSONResponse({"error": problem}, 403)
        if scope["type"] == "http" and scope["method"] == "OPTIONS" and is_allowed:
            return Response(None, 204, ALLOWED)
        is_full = self.service.connections > self.service.limits.most_connections
        if self.service.is_stopping or (is_full and scope["path"] != "/health"):
            reason = (
                "the service is stopping"
                if self.service.is_stopping
                else "too many connections are open, come again later"
            )
            return JSONResponse({"error": f"{reason}."}, 503, {"Retry-After": "5"})
        return None


HEADERS = {
    "Connection": "close",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
}
