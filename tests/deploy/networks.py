"""Small networks with trained-looking weights and statistics, ready to be exported."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from dsrun.deploy.calibrate import calibrate
from dsrun.deploy.codes import has_scale, input_format
from dsrun.deploy.folding import fold
from dsrun.deploy.network import Network
from dsrun.deploy.quantized import CONSTANTS, constants, product_arrays
from dsrun.model import Conv2dSettings, FrameStackSettings, ModelSettings, init_parameters, initial_statistics

STACK = FrameStackSettings(stack=3, stride=2, hidden=10)


def small(front_end=STACK, *, direction="bidirectional", normalization="batch", lookahead=0, bins=6):
    """A network's shape."""
    return ModelSettings(
        num_bins=bins,
        num_classes=5,
        front_end=front_end,
        hidden=8,
        layers=2,
        direction=direction,
        normalization=normalization,
        dropout=0.0,
        relu_clip=20.0,
        lookahead=lookahead,
    )


CONVOLUTIONS = Conv2dSettings(channels=3)


def weights_of(settings, seed=3):
    """Initial weights with every bias, scale and running statistic away from its initial value."""
    rng = np.random.default_rng(seed)

    def moved(path, leaf):
        name = path[-1].key
        if name in ("scale", "variance"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        if name in ("shift", "b_n", "output_bias", "mean"):
            return jnp.asarray(rng.normal(0.0, 0.3, leaf.shape), jnp.float32)
        return leaf

    weights = jax.tree_util.tree_map_with_path(moved, init_parameters(settings, seed))
    return weights, jax.tree_util.tree_map_with_path(moved, initial_statistics(settings))


def speech(settings, num_frames, seed=5):
    """Features of some utterances, and their lengths; what lies behind them is NaN."""
    features = np.random.default_rng(seed).normal(size=(len(num_frames), max(num_frames), settings.num_bins))
    for row, count in enumerate(num_frames):
        features[row, count:] = np.nan
    return features.astype(np.float32), np.array(num_frames, np.int32)


@cache
def quantized(settings, format, *, granularity="layer", method="absmax", only=None, weights=weights_of):
    """A network in a format (its products in `only`, the others float32) and its arrays."""
    parameters, statistics = weights(settings)
    products = fold(settings, parameters, statistics)
    formats = {path: format if only is None or path in only else "float32" for path in products}
    features, num_frames = speech(settings, (40, 25, 0), seed=7)
    batch = SimpleNamespace(features=np.nan_to_num(features), num_frames=num_frames)
    places = {products[path].source: input_format(f) for path, f in formats.items() if has_scale(f)}
    seen = calibrate(settings, parameters, statistics, lambda: [batch], formats=places, method=method) if places else {}
    arrays = {
        path: product_arrays(
            product,
            formats[path],
            inputs=seen[product.source].coding if has_scale(formats[path]) else None,
            granularity=granularity,
            method=method,
        )[0]
        for path, product in products.items()
    }
    arrays[CONSTANTS] = constants(settings, parameters)
    return Network(settings, tuple(formats.items())), arrays
