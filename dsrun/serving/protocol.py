"""Protocol: what client and service say to each other on /stream, and what is refused with which close code.

A client sends, in this order:

    text      {"sample_rate": 48000}      of the sound that follows, in Hz
    binary    samples: signed 16-bit integers, little-endian, one channel; as many messages of any length as it likes, as they are spoken
    text      {"end": true}               nothing more comes

and is sent text messages, each a JSON object:

    {"new": "tur", "seconds": 3.06, "is_final": false}      what is new of the text (never taken back); sound that the network has taken in
    {"new": "ns", "seconds": 4.21, "is_final": true, "text": "left turns"}      the last, with all of the text; then close code 1000
    {"error": "...", "code": 1007}                                              instead of it; then this close code

| code | why a stream is refused or broken off |
|---|---|
| 1003 | a text message where samples are due, or the other way round |
| 1007 | what is said cannot be used: no JSON, an unknown key, an impossible rate, half a sample, sound too short to be one |
| 1008 | a limit of time: nothing came, the sound is too long, it took too long, or what was sent was not taken |
| 1009 | a message is too large |
| 1011 | the network failed; the stream can be opened again |
| 1012 | the service stops |
| 1013 | as many streams are open as there is room for; come again later |
"""

import json
from typing import Any

import numpy as np
from jaxtyping import Float32

from dsrun.serving.limits import FASTEST_RATE, MESSAGE_BYTES, SLOWEST_RATE

DONE, WRONG_KIND, MALFORMED, LIMIT, TOO_LARGE, FAILED, STOPPING, BUSY = (
    1000, 1003, 1007, 1008, 1009, 1011, 1012, 1013,
)  # fmt: skip
LONGEST_SHOWN = 60  # characters of what a client sent, in an answer to it
FIRST = 'Begin with {"sample_rate": 48000}, the rate of your samples.'


class Refused(Exception):
    """A stream is refused or broken off: close code, and why in words."""

    def __init__(self, code: int, reason: str):
        super().__init__(reason)
        self.code, self.reason = code, reason

    def to_json(self) -> dict[str, Any]:
        """What its client is told."""
        return {"error": self.reason, "code": self.code}


def read_beginning(message: dict[str, Any]) -> int:
    """The sample rate (Hz) of a stream's first message. Raises Refused."""
    said = _object_of(message, FIRST)
    if said.keys() != {"sample_rate"}:
        raise Refused(MALFORMED, f"a stream begins with the key sample_rate alone, not {_shown(list(said))}. {FIRST}")
    rate = said["sample_rate"]
    if type(rate) is not int or not SLOWEST_RATE <= rate <= FASTEST_RATE:
        raise Refused(
            MALFORMED,
            f"sample_rate {_shown(rate)}: write a whole number of Hz from {SLOWEST_RATE} to {FASTEST_RATE}.",
        )
    return rate


def read_samples(message: dict[str, Any]) -> Float32[np.ndarray, " sample"] | None:
    """Samples in [-1, 1] of a message that follows, or None at the end. Raises Refused."""
    content = message.get("bytes")
    if content is None:
        said = _object_of(message, 'Samples are binary messages; {"end": true} ends the stream.')
        if said != {"end": True} or said["end"] is not True:
            raise Refused(
                WRONG_KIND,
                f'a text message {_shown(said)} where samples are due: they are binary, and {{"end": true}} is the end.',
            )
        return None
    _require_size(content)
    if len(content) % 2:
        raise Refused(MALFORMED, f"{len(content)} bytes are half a sample too many: send 16-bit integers.")
    # As `speech.live` reads them: divided by a power of two, so every value is exact.
    return np.frombuffer(content, "<i2").astype(np.float32) / np.float32(2.0**15)


def _object_of(message: dict[str, Any], way: str) -> dict[str, Any]:
    text = message.get("text")
    if text is None:
        raise Refused(WRONG_KIND, f"a binary message of {len(message['bytes'])} bytes where a text one is due. {way}")
    _require_size(text)
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused(MALFORMED, f"no JSON: {_shown(text)}. {way}") from None
    if not isinstance(said, dict):
        raise Refused(MALFORMED, f"no JSON object: {_shown(said)}. {way}")
    return said


def _require_size(content: str | bytes) -> None:
    if len(content) > MESSAGE_BYTES:
        raise Refused(TOO_LARGE, f"a message of {len(content)} bytes; send at most {MESSAGE_BYTES} at a time.")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits has no decimal text
        text = f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
