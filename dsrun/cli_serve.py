"""`dsrun serve`: a model as a small service on this machine, with a page that listens to the microphone."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from dsrun.cli_export import Format
from dsrun.cli_options import finite
from dsrun.errors import UsageError

EXAMPLE = (
    "Examples:  dsrun serve RUN    dsrun serve RUN/export/int8 --port 0 --json    "
    "then  curl --data-binary @a.wav http://127.0.0.1:8765/transcribe    and http://127.0.0.1:8765/ in a browser"
)
PACKAGES = ("starlette", "uvicorn", "websockets")


def serve(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run folder, or a folder that `dsrun export` has made.")
    ],
    checkpoint: Annotated[str | None, typer.Option(help="Of a run: best (default), last, or a step number.")] = None,
    format: Annotated[
        Format | None,
        typer.Option(help="Of a run: serve it as `dsrun export` would leave it. Default: float32."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Another than this machine's own loopback needs --expose.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free, and prints it.")] = 8765,
    expose: Annotated[
        bool,
        typer.Option("--expose", help="Listen on a --host that others reach: no password, and nothing is encrypted."),
    ] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Pages that may use the service, e.g. https://example.org. Repeatable."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name that it may be reached by, beside the loopback ones. Repeatable."),
    ] = None,
    chunk_ms: Annotated[
        float,
        typer.Option(
            min=1.0, max=5000.0, callback=finite, help="Sound of a stream taken in at a time, in milliseconds."
        ),
    ] = 200.0,
    most_streams: Annotated[int, typer.Option(min=1, max=4096, help="People who speak at the same time.")] = 32,
    most_connections: Annotated[int, typer.Option(min=1, max=65536, help="Open sockets, for whatever.")] = 128,
    most_uploads: Annotated[
        int, typer.Option(min=1, max=1024, help="Files under way; one is recognised at a time.")
    ] = 4,
    max_seconds: Annotated[float, typer.Option(callback=finite, help="Of sound, in a stream or a file.")] = 600.0,
    max_megabytes: Annotated[float, typer.Option(callback=finite, help="Of a file, as it is sent.")] = 64.0,
    idle_seconds: Annotated[
        float, typer.Option(callback=finite, help="A client that says nothing, or takes nothing, so long is dropped.")
    ] = 20.0,
    request_seconds: Annotated[
        float, typer.Option(callback=finite, help="From a file's first byte to its text.")
    ] = 300.0,
    json_output: Annotated[
        bool, typer.Option("--json", help="One line of JSON on stdout when it listens: address, port, model, limits.")
    ] = False,
) -> None:
    """Serve a model on this machine: a page that listens to the microphone, files over HTTP, streams over a WebSocket.

    GET / is the page, POST /transcribe takes an audio file, the WebSocket /stream takes sound as it is spoken (networks of forward layers
    only), GET /health says how it goes. docs/SERVING.md has the protocol. Streams are stepped together (batch dispatch).

    It listens to this machine alone, and to pages of this machine alone. Everything is compiled before it listens; its address is then
    told on stderr. Ctrl-C or SIGTERM ends it in order, with exit code 0. Needs the extra: pip install "dsrun[serve]".
    """
    require_packages()
    from dsrun.serving.access import access_of, is_loopback
    from dsrun.serving.limits import Limits
    from dsrun.serving.server import address_of, bind, listen, make_server

    if not is_loopback(host) and not expose:
        raise UsageError(
            f"--host {host}: others could reach the service, which has no password and does not encrypt what they say. Write --expose if "
            "that is meant, or put a web server with both before it and leave --host out."
        )
    limits = Limits(
        most_streams, most_connections, most_uploads, max_seconds, max_megabytes, idle_seconds, request_seconds
    )
    access = access_of(host, hosts=allow_host or [], origins=allow_origin or [])
    from dsrun.serve import ServeSettings, make_service

    # Bound before the network is compiled: a port in use is told at once.
    with bind(host, port) as bound, tempfile.TemporaryDirectory(prefix="dsrun-serve-") as folder:
        settings = ServeSettings(model, checkpoint, format, chunk_ms)
        service = make_service(settings, limits, access, Path(folder), say=_say)
        server = make_server(service)
        listen(bound)
        address = address_of(bound)
        if not is_loopback(host):
            _say(f"warning: {address} can be reached by others; there is no password, and nothing is encrypted")
        if service.no_streams:
            _say(f"files only: {service.no_streams}")

        def tell() -> None:
            if json_output:
                about = {"address": address, "port": bound.getsockname()[1], "pid": os.getpid()}
                print(json.dumps(about | service.health()), flush=True)
            _say(f"serving {model} ({service.about['format']}) at {address}  (Ctrl-C ends it)")

        server.serve_on(bound, on_ready=tell)
    _say("the service has ended")
    _leave()


def require_packages() -> None:
    """Raises UsageError where the packages of the extra are not installed."""
    from importlib.util import find_spec

    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(
            f'serving needs {", ".join(missing)}, which {"is" if len(missing) == 1 else "are"} not installed: pip install "dsrun[serve]"'
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _leave() -> Any:
    """A recogniser's thread may be in the middle of XLA, which an interpreter that shuts down in order would wait for, or crash in."""
    sys.stdout.flush()
    os._exit(0)
