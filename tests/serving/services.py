"""A service of the tiny network, for tests: its files are heard by a stand-in that counts their samples."""

import time

import numpy as np
import soundfile

from dsrun.errors import DataError
from dsrun.serving.access import Access
from dsrun.serving.dispatch import Dispatcher
from dsrun.serving.limits import Limits
from dsrun.serving.service import Service
from dsrun.serving.uploads import Unwanted, Uploads
from tests.serving.speakers import RATE, Ear, hearing_of, pool

ABOUT = {
    "model": "tiny",
    "format": "int8",
    "sample_rate": RATE,
    "direction": "forward",
    "latency": {"total_ms": 100.0},
}
LIMITS = Limits(
    most_streams=4, most_connections=8, most_uploads=2, max_seconds=5.0, max_megabytes=0.2, idle_seconds=5.0
)


class CountingTranscriber:
    """Says how many samples a file has; `hold` makes it wait until nobody wants the answer, or the test lets go."""

    def __init__(self):
        self.hold, self.begun, self.unwanted = False, 0, 0

    def __call__(self, path, name, is_wanted):
        self.begun += 1
        while self.hold:
            if not is_wanted():
                self.unwanted += 1
                raise Unwanted
            time.sleep(0.005)
        try:
            samples, rate = soundfile.read(path)
        except soundfile.LibsndfileError:
            raise DataError(f"{name}: not an audio file that can be read.") from None
        return {"text": str(len(samples)), "seconds": len(samples) / rate}


def make_service(folder, *, limits=LIMITS, access=None, dispatcher="tiny", most_waiting_seconds=5.0):
    """A service, its dispatcher started; `stop` it."""
    if dispatcher == "tiny":
        streams = pool("int8")
        dispatcher = Dispatcher(streams, hearing_of(streams), most_waiting_seconds=most_waiting_seconds).start()
    access = access or Access(hosts=frozenset({"testserver"}))
    why = None if dispatcher else "its layers are bidirectional."
    return Service(ABOUT, dispatcher, why, Uploads(CountingTranscriber(), limits, folder), limits, access)


def as_bytes(samples):
    """As a client sends them."""
    return np.round(samples * 32767).astype("<i2").tobytes()


def expected_text(samples):
    """What one stream alone gives for samples as a client sends them."""
    ear = Ear()
    with Dispatcher(pool("int8"), hearing_of(pool("int8"))) as dispatcher:
        stream = dispatcher.open(ear.on_text, ear.on_failure)
        stream.push(np.frombuffer(as_bytes(samples), "<i2").astype(np.float32) / np.float32(32768))
        stream.finish()
        assert ear.over.wait(30)
    return ear.text
