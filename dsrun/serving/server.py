"""Server: the application on a socket, with what the HTTP library leaves open to a client that means no good.

uvicorn reads requests (h11) and WebSockets (websockets). It waits for ever for a client that connects and says nothing, and for one that
takes nothing of what it is sent; a WebSocket that is sent pings and takes no answer makes its memory grow. So here

- a connection has a time to say what it wants, and one for its whole request; there are at most twice `most_connections`;
- where a client takes nothing, nothing more is read of it, and after `idle_seconds` it is cut off;
- messages are not compressed (a few bytes would be megabytes of silence) and come in pieces of a bounded number.

The end. SIGTERM or Ctrl-C: the listening socket is closed, streams are told (close code 1012), a few seconds later everything is over and
the exit code is 0, because a service has no other end than this. A second Ctrl-C ends it at once, with 130.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from dsrun.errors import EXIT_INTERRUPTED, UsageError
from dsrun.serving.limits import MESSAGE_BYTES
from dsrun.serving.service import Service, make_app

HEADER_SECONDS = 10.0  # for a connection to say what it wants
HEADER_BYTES = 16_384
MOST_PIECES = 1_000  # of a message
LAST_SECONDS = 3.0  # for connections to end when the service stops
PING_SECONDS = 20.0
BACKLOG = 128


def bind(host: str, port: int) -> socket.socket:
    """A socket with an address, which nobody can reach before `listen`.

    Raises:
        UsageError: the port is in use, may not be used, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(f"--host {host}: no such host ({error.strerror}).") from None
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise _cannot_listen(host, port, error) from None
    return found


def listen(bound: socket.socket) -> None:
    """Let clients come. Raises UsageError where another service, bound to the same port at the same time, was quicker."""
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise _cannot_listen(host, port, error) from None


def _cannot_listen(host: str, port: int, error: OSError) -> UsageError:
    way = "Choose another with --port; --port 0 takes one that is free."
    return UsageError(f"--host {host} --port {port}: cannot listen there ({error.strerror}). {way}")


def address_of(listening: socket.socket) -> str:
    """What to type into a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def make_server(service: Service) -> "Server":
    """The service, ready to be run on a socket."""
    http, stream = _protocols(service)
    config = uvicorn.Config(
        make_app(service),
        loop="asyncio",
        http=http,
        ws=stream,
        ws_max_size=2 * MESSAGE_BYTES,  # a message that is a little too large is answered in words
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(LAST_SECONDS),
        h11_max_incomplete_event_size=HEADER_BYTES,
    )
    return Server(config, service)


class Server(uvicorn.Server):
    """uvicorn's, with this service's end."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self.service = service

    def serve_on(self, listening: socket.socket, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until a signal comes or `should_exit` is set, and end in order. `on_ready` is called once a signal means that."""
        self.on_ready = on_ready
        with _quiet_logs():
            self.run(sockets=[listening])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C ask for the end, a second Ctrl-C makes it."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.should_exit and number == signal.SIGINT:
                os._exit(EXIT_INTERRUPTED)
            self.should_exit = True

        if threading.current_thread() is not threading.main_thread():
            self.on_ready()
            yield
            return
        # The thread that watches over Ctrl-C in other commands (`dsrun.interrupts`) is not to be woken: it ends the process with 130.
        descriptor = signal.set_wakeup_fd(-1)
        # Where Ctrl-C is ignored (a command in the background of a script) it stays ignored.
        numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            self.on_ready()
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(descriptor)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Streams are told first; then uvicorn closes what is left."""
        for listener in self.servers:
            listener.close()
        await asyncio.get_running_loop().run_in_executor(None, self.service.stop)
        for _ in range(int(LAST_SECONDS / 0.05)):
            if not self.server_state.connections:
                break
            await asyncio.sleep(0.05)
        for connection in list(self.server_state.connections):
            if (transport := connection.transport) is not None:
                transport.abort()
        await super().shutdown(sockets)


def _protocols(service: Service) -> tuple[type[H11Protocol], type[WebSocketsSansIOProtocol]]:
    """The classes of uvicorn with this service's limits."""
    limits = service.limits

    class Request(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            service.connections = len(self.connections)
            self._late = self.loop.call_later(HEADER_SECONDS, self._cut_off_if_silent)
            self._last = self.loop.call_later(limits.request_seconds + limits.idle_seconds, transport.abort)
            if service.connections > 2 * limits.most_connections:
                transport.abort()

        def _cut_off_if_silent(self) -> None:
            if self.cycle is None:
                self.transport.abort()

        def handle_websocket_upgrade(self, event: Any) -> None:
            self._forget_timers()
            super().handle_websocket_upgrade(event)
            service.connections = len(self.connections)

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_timers()
            super().connection_lost(exc)
            service.connections = len(self.connections)

        def _forget_timers(self) -> None:
            self._late.cancel()
            self._last.cancel()

    class Stream(WebSocketsSansIOProtocol):
        _stuck: asyncio.TimerHandle | None = None

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_timer()
            super().connection_lost(exc)
            service.connections = len(self.connections)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._forget_timer()
            self._stuck = self.loop.call_later(limits.idle_seconds, self.transport.abort)
            if not self.read_paused:  # what is read may have to be answered
                self.transport.pause_reading()

        def resume_writing(self) -> None:
            self._forget_timer()
            super().resume_writing()
            if not self.read_paused:
                self.transport.resume_reading()

        def _forget_timer(self) -> None:
            if self._stuck is not None:
                self._stuck.cancel()

        def handle_cont(self, event: Any) -> None:
            if len(self.frames) > MOST_PIECES:  # empty ones add nothing to the message's size
                self.transport.abort()
                return
            super().handle_cont(event)

    return Request, Stream


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """Nothing on stderr of what clients do wrong; bugs with their tracebacks."""
    logger = logging.getLogger("uvicorn.error")
    level = logger.level
    logger.setLevel(logging.ERROR)
    logger.addFilter(_is_no_client)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_client)
        logger.setLevel(level)


def _is_no_client(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("Invalid UTF-8", "Cancel "))
