"""An exported model as a dispatcher, ready to be started."""

from dsrun.deploy.folder import Exported
from dsrun.deploy.streams import StreamPool
from dsrun.errors import UsageError
from dsrun.model import time_stride
from dsrun.serving.dispatch import MOST_WAITING_SECONDS, Dispatcher
from dsrun.serving.session import Hearing

CHUNK_MS = 200.0  # as `dsrun transcribe --stream`


def pool_of(exported: Exported, *, chunk_ms: float = CHUNK_MS, most_streams: int) -> StreamPool:
    """Slots for so many streams, not yet compiled.

    Args:
        chunk_ms: sound that a step takes in of each, rounded down to whole output frames, at least one.

    Raises:
        UsageError: the network cannot be streamed; says why and what can.
    """
    features, settings = exported.features, exported.network.settings
    frame_ms = 1000.0 * features.hop * time_stride(settings.front_end) / features.sample_rate
    # A ratio that is whole but for a rounding error is whole.
    chunk = max(1, int(chunk_ms / frame_ms + 1e-6))
    try:
        return StreamPool(exported.network, exported.arrays, chunk=chunk, most_streams=most_streams)
    except ValueError as error:
        raise UsageError(f"{exported.path or exported.format}: cannot be served in streams: {error}") from None


def hearing_of(exported: Exported, pool: StreamPool) -> Hearing:
    """What the streams of a model have in common."""
    return Hearing(
        exported.features, exported.normalization, exported.alphabet, pool.frames_a_chunk, pool.output_frames
    )


def dispatcher_of(
    exported: Exported,
    *,
    chunk_ms: float = CHUNK_MS,
    most_streams: int,
    most_waiting_seconds: float = MOST_WAITING_SECONDS,
) -> Dispatcher:
    """A dispatcher of an exported model; `start` compiles and listens. Raises UsageError as `pool_of`."""
    pool = pool_of(exported, chunk_ms=chunk_ms, most_streams=most_streams)
    return Dispatcher(pool, hearing_of(exported, pool), most_waiting_seconds=most_waiting_seconds)
