"""What a client may say, and with which code everything else is refused."""

import numpy as np
import pytest

from dsrun.serving.limits import MESSAGE_BYTES
from dsrun.serving.protocol import Refused, read_beginning, read_samples


def test_every_16_bit_value_is_read_exactly():
    values = np.arange(-32768, 32768).astype("<i2")
    found = read_samples({"bytes": values.tobytes()})
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.astype(np.float64), values / 32768)


def test_a_beginning_names_the_rate_and_the_end_is_none():
    assert read_beginning({"text": '{"sample_rate": 44100}'}) == 44100
    assert read_samples({"text": '{"end": true}'}) is None


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"bytes": b"\0\0"}, 1003),
        ({"text": ""}, 1007),
        ({"text": "hello"}, 1007),
        ({"text": "[" * 100_000}, 1007),
        ({"text": "48000"}, 1007),
        ({"text": "{}"}, 1007),
        ({"text": '{"rate": 48000}'}, 1007),
        ({"text": '{"sample_rate": 48000, "language": "en"}'}, 1007),
        ({"text": '{"sample_rate": "48000"}'}, 1007),
        ({"text": '{"sample_rate": true}'}, 1007),
        ({"text": '{"sample_rate": 48000.5}'}, 1007),
        ({"text": '{"sample_rate": NaN}'}, 1007),
        ({"text": '{"sample_rate": 999}'}, 1007),
        ({"text": '{"sample_rate": -16000}'}, 1007),
        ({"text": '{"sample_rate": 1' + "0" * 9000 + "}"}, 1007),
        ({"text": '{"sample_rate": 1' + "0" * 4000 + "}"}, 1007),
        ({"text": '{"\\ud800": 1}'}, 1007),
        ({"text": " " * (MESSAGE_BYTES + 1)}, 1009),
    ],
)
def test_a_beginning_that_cannot_be_used_is_refused_with_its_code(message, code):
    with pytest.raises(Refused) as caught:
        read_beginning(message)
    assert caught.value.code == code
    assert len(caught.value.reason) < 300
    caught.value.reason.encode()  # it can be sent


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"bytes": b"\0\0\0"}, 1007),
        ({"bytes": bytes(MESSAGE_BYTES + 2)}, 1009),
        ({"text": '{"end": 1}'}, 1003),
        ({"text": '{"end": false}'}, 1003),
        ({"text": '{"sample_rate": 16000}'}, 1003),
        ({"text": "not JSON"}, 1007),
    ],
)
def test_what_is_no_sound_is_refused_with_its_code(message, code):
    with pytest.raises(Refused) as caught:
        read_samples(message)
    assert caught.value.code == code
