"""Script: twenty lines that run an exported model with JAX and NumPy alone, written into every export for those who will not install dsrun.

It reads a WAV (16-bit, one channel, at the model's rate, plain 44-byte header) from standard input and prints its text by the best class
of each frame. The program is the one that dsrun runs; features are computed in fewer lines, and may differ in a last bit.
"""

import numpy as np

from dsrun.speech import Alphabet, FeatureSettings

NAME = "run_with_jax.py"

_SCRIPT = """# Prints what a WAV says:  python run_with_jax.py < a.wav    (16-bit, one channel, {rate} Hz; imports jax and numpy alone)
import numpy as np
from jax import export

folder = __file__.rpartition("/")[0] or "."
weights, f = dict(np.load(f"{{folder}}/weights.npz")), dict(np.load(f"{{folder}}/features.npz"))
program = export.deserialize(bytearray(open(f"{{folder}}/program.bin", "rb").read()))
wav = open(0, "rb").read()
if wav[20:28] + wav[34:40] != b"\\1\\0\\1\\0" + ({rate}).to_bytes(4, "little") + b"\\20\\0data" or len(wav) < 44 + 2 * len(f["window"]):
    raise SystemExit("not a WAV of 16-bit samples, one channel, {rate} Hz, a plain header and at least one window of sound")
samples = (np.frombuffer(wav[44 : len(wav) // 2 * 2], "<i2") / 32768.0).astype(np.float32)
frames = np.lib.stride_tricks.sliding_window_view(samples, len(f["window"]))[:: int(f["hop"])]
power = np.abs(np.fft.rfft(frames * f["window"], int(f["fft"]), axis=1)) ** 2 / f["density"]
{mel}features = (np.log(power + f["floor"]).astype(np.float32) - f["mean"]) / f["deviation"]
logits, length = program.call(weights, features[None], np.array([len(features)], np.int32))
best = np.asarray(logits)[0, : int(length[0])].argmax(axis=1)
labels = best[np.flatnonzero(np.diff(best, prepend=0))]  # class 0 is blank; repeats are one
print(" ".join("".join(chr(f["alphabet"][label - 1]) for label in labels if label).split()))
"""
_MEL = 'power = power @ f["filters"]\n'


def script_text(features: FeatureSettings) -> str:
    """The script for these features."""
    return _SCRIPT.format(rate=features.sample_rate, mel=_MEL if features.kind == "log_mel" else "")


def script_arrays(features: FeatureSettings, alphabet: Alphabet) -> dict[str, np.ndarray]:
    """What the script finds in `features.npz` besides the normalisation: how features are computed, and symbols as code points."""
    return features.analysis() | {"alphabet": np.array([ord(symbol) for symbol in alphabet.symbols], np.uint32)}
