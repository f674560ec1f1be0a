"""What a stream, or who wants to open one, can be told. All are mistakes or limits with a way out, never tracebacks."""

from dsrun.errors import DataError, DsrunError


class TooManyStreams(DsrunError):
    """All places are taken: come again later, or serve with more of them."""


class TooFast(DsrunError):
    """A stream has as much sound waiting as it may; nothing of the block was taken. `Stream.wait_for_room` says when it fits."""


class StreamEnded(DsrunError):
    """The stream was finished, closed or ended by the service, and takes no more."""


class NetworkFailed(DsrunError):
    """A step of the network failed; all streams that were open are lost, and new ones can be opened."""


class Stopped(DsrunError):
    """The service is stopping, or was never started."""


class BadSamples(DataError):
    """Not samples: of another kind than float32 in one row, or not finite."""
