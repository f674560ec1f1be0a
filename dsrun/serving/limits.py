"""Limits: what a service gives each client, and all of them together, so that none can take it away from the others.

Time is limited wherever somebody waits for a client, memory and disk wherever a client decides how much comes. Defaults fit a desk: some
dozens of people, recordings of ten minutes.
"""

from dataclasses import asdict, dataclass
from typing import Any

from dsrun.errors import UsageError

MEGABYTE = 1_000_000
MESSAGE_BYTES = 1 << 18  # 2.7 s of sound at 48 kHz; a page sends some 40 ms
SLOWEST_RATE, FASTEST_RATE = 1000, 768_000  # Hz, as --raw-rate of `dsrun transcribe`


@dataclass(frozen=True)
class Limits:
    """Of a service.

    Fields:
        most_streams: people who speak at the same time, each with a slot in the network's memory.
        most_connections: sockets, whatever they are for; twice as many are closed without an answer.
        most_uploads: files under way, the one that is recognised and those that come in or wait.
        max_seconds: of sound, in a stream or a file. A stream may last twice as long by the clock, since sound may come slowly.
        max_megabytes: of a file's body, and so many times most_uploads on the disk.
        idle_seconds: without a message or a byte from a client that owes one, or without its taking what it was sent.
        request_seconds: from a file's first byte to its text.
    """

    most_streams: int = 32
    most_connections: int = 128
    most_uploads: int = 4
    max_seconds: float = 600.0
    max_megabytes: float = 64.0
    idle_seconds: float = 20.0
    request_seconds: float = 300.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise UsageError(f"--{name.replace('_', '-')} {value:g}: write a number above 0.")
        if self.most_connections < self.most_streams:
            raise UsageError(
                f"--most-connections {self.most_connections} with --most-streams {self.most_streams}: each stream has a connection of "
                f"its own. Write at least {self.most_streams}."
            )

    @property
    def max_bytes(self) -> int:
        """Of a file's body."""
        return int(self.max_megabytes * MEGABYTE)

    @property
    def stream_clock_seconds(self) -> float:
        """By the clock, of a stream, however slowly its sound comes."""
        return 2 * self.max_seconds

    def to_json(self) -> dict[str, Any]:
        """By name, with what is fixed."""
        return asdict(self) | {"message_bytes": MESSAGE_BYTES}
