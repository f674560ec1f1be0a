"""Small trainings whose states are known to the last bit, for `scripts/regolden.py`, which writes them down, and the test that compares.

The shipped configs with a network of eight units, on made-up features: two steps of every arithmetic named here, digested. The
digest is that of the tensors of `TrainState.to_dict`. They hold for one kind of CPU and these versions, so the file has an entry for
each kind; a machine that has none is not compared.
"""

import json
import platform
from importlib import metadata
from pathlib import Path

import jax
import numpy as np

from dsrun import build
from dsrun.config import load_config
from dsrun.record.provenance import cpu_model
from dsrun.training.state_digest import digest_of_tensors
from dsrun.training.step import Shard

CONFIGS = Path(__file__).parents[2] / "configs"
DIGESTS = Path(__file__).parent / "digests.json"
CASES = ("prompts_float32", "prompts_float16_storage", "prompts_bfloat16_stochastic")
SHARDS, FRAMES, LABELS, CLASSES = 4, 48, 5, 29


def kind() -> str:
    """What the digests hold for: CPU and versions."""
    versions = [f"{name} {metadata.version(name)}" for name in ("jaxlib", "jax", "optax", "flax")]
    return ", ".join([cpu_model(), vectors(), platform.machine(), *versions])


def vectors() -> str:
    """The widest vector instructions; one processor's name may stand for several kinds."""
    information = Path("/proc/cpuinfo")
    flags = information.read_text().split() if information.exists() else []
    return next((name for name in ("avx512f", "avx2", "asimd") if name in flags), "unknown vectors")


def known() -> dict[str, dict[str, str]]:
    """Digests by kind, then case."""
    return json.loads(DIGESTS.read_text()) if DIGESTS.is_file() else {}


def state_digest(case: str, *, devices: int) -> str:
    """SHA-256 of all state bits after two steps of a shipped config with a tiny network."""
    small = ["model.hidden=8", "model.layers=1", f"batches.shards={SHARDS}", "batches.global_batch=8"]
    small.append("model.front_end={kind: frame_stack, stack: 5, stride: 3, hidden: 8}")
    config = load_config(CONFIGS / f"{case}.yaml", small).config
    settings = build.build_model_settings(config, num_classes=CLASSES)
    policy = build.build_policy(config)
    step = build.build_step(
        config, settings, policy, steps_per_epoch=10, labels=LABELS, devices=jax.devices()[:devices]
    )
    state = step.start()
    for number in range(2):
        state, _ = step(state, shards(settings.num_bins, number))
    return digest_of_tensors(jax.device_get(state.first.to_dict()))


def shards(bins: int, number: int) -> list[Shard]:
    """Made-up utterances: two a shard, from integers, so that no library's floats decide them."""
    values = np.random.default_rng(number).integers(-512, 513, (SHARDS, 2, FRAMES, bins))
    features = (values / 256).astype(np.float32)
    lengths = np.array([FRAMES, FRAMES - 9], np.int32)
    labels = np.random.default_rng(100 + number).integers(1, CLASSES, (SHARDS, 2, LABELS)).astype(np.int32)
    return [Shard(features[i], lengths, labels[i], np.array([LABELS, 3], np.int32)) for i in range(SHARDS)]
