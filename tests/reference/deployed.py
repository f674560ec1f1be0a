"""The deployed network in NumPy, one utterance at a time: integers by int64 products, float32 steps in the order that
`dsrun.deploy.network` states, written from the conventions in model.json and not from the code."""

import numpy as np

f32 = np.float32


def codes(x, inverse_scale, zero_point):
    """round_half_even(x * inverse_scale) + zero_point, held to -127..127."""
    return np.clip(np.rint(x * f32(inverse_scale)) + f32(zero_point), -127, 127).astype(np.int64)


def product(own, x):
    """A product of integers, as float32."""
    sums = codes(x, own["inverse_scale"], own["zero_point"]) @ own["weight"].astype(np.int64).reshape(
        -1, own["weight"].shape[-1]
    )
    return (sums + own["offset"].astype(np.int64)).astype(f32) * own["multiplier"] + own["bias"]


def tanh(x):
    """The rational function, Horner from the highest term, every operation rounded."""
    from dsrun.arithmetic import exact

    held = np.clip(x, f32(-9), f32(9))
    square = held * held

    def polynomial(terms):
        total = np.full_like(square, f32(terms[-1]))
        for term in terms[-2::-1]:
            total = total * square + f32(term)
        return total

    return np.clip(held * polynomial(exact._NUMERATOR) / polynomial(exact._DENOMINATOR), f32(-1), f32(1))


def sigmoid(x):
    """Logistic function by tanh."""
    return f32(0.5) + f32(0.5) * tanh(f32(0.5) * x)


def direction(arrays, path, x, *, is_backward):
    """States of one GRU direction over the frames of one utterance."""
    projections, h = product(arrays[f"{path}.w"], x), np.zeros(arrays[f"{path}.u"]["weight"].shape[0], f32)
    states = np.zeros((len(x), len(h)), f32)
    for frame in range(len(x))[:: -1 if is_backward else 1]:
        x_r, x_z, x_n = np.split(projections[frame], 3)
        u_r, u_z, u_n = np.split(product(arrays[f"{path}.u"], h[None])[0], 3)
        r, z = sigmoid(x_r + u_r), sigmoid(x_z + u_z)
        n = tanh(x_n + r * u_n)
        h = n + z * (h - n)
        states[frame] = h
    return states


def front_end(settings, arrays, features):
    """Frame stacking, or two convolutions, of one utterance."""
    if hasattr(settings.front_end, "stack"):
        stack, stride = settings.front_end.stack, settings.front_end.stride
        count = -(-len(features) // stride)
        padded = np.zeros((count * stride + 2 * stack, features.shape[1]), f32)
        padded[stack // 2 : stack // 2 + len(features)] = features
        windows = np.stack([padded[stride * t : stride * t + stack].ravel() for t in range(count)])
        return np.clip(product(arrays["front_end.kernel"], windows), f32(0), f32(settings.relu_clip))
    x = features[..., None]
    for number, ((high, wide), (step, stride)) in enumerate((((41, 11), (2, 2)), ((21, 11), (2, 1)))):
        own = arrays[f"front_end.kernel_{number}"]
        frames, bins = -(-x.shape[0] // stride), -(-x.shape[1] // step)
        padded = np.pad(x, ((wide // 2, wide), (high // 2, high), (0, 0)))
        windows = np.stack(
            [
                padded[stride * t : stride * t + wide, step * b : step * b + high].ravel()
                for t in range(frames)
                for b in range(bins)
            ]
        )
        x = np.clip(product(own, windows), f32(0), f32(settings.relu_clip)).reshape(frames, bins, -1)
    return x.reshape(len(x), -1)


def logits(settings, arrays, features):
    """Class scores [output_frame, class] of one utterance's features [frame, bin]."""
    arrays = {path: {name: np.asarray(value) for name, value in own.items()} for path, own in arrays.items()}
    x = front_end(settings, arrays, features)
    for layer in range(settings.layers):
        found = direction(arrays, f"gru_{layer}_forward", x, is_backward=False)
        if settings.direction == "bidirectional":
            found = found + direction(arrays, f"gru_{layer}_backward", x, is_backward=True)
        x = found
    if settings.lookahead:
        kernel = arrays["constants"]["lookahead_kernel"]
        padded = np.pad(x, ((0, settings.lookahead), (0, 0)))
        seen = padded[: len(x)] * kernel[0]
        for row in range(1, settings.lookahead + 1):
            seen = seen + padded[row : row + len(x)] * kernel[row]
        x = seen
    return product(arrays["output_kernel"], x)
