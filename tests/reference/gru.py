"""The bidirectional GRU in NumPy, float64, one utterance, one direction, one frame at a time: obvious and slow.

Shares nothing with `dsrun.model.gru`: no masks and no padding (an utterance is cut to its own length first), no
factored gradients, no products over all frames. The backward pass is the chain rule line by line. Equations as in the
documentation of torch.nn.GRU, gate names r, z, n:

    r = sigmoid(W_r x + b_r + U_r h)
    z = sigmoid(W_z x + b_z + U_z h)
    n = tanh(W_n x + b_x + r * (U_n h + b_n))
    h' = (1 - z) * n + z * h
"""

import numpy as np

Weights = dict[str, np.ndarray]  # w_* [input, hidden], u_* [hidden, hidden], b_* [hidden]

NAMES = ("w_r", "w_z", "w_n", "b_r", "b_z", "b_x", "u_r", "u_z", "u_n", "b_n")


def random_weights(random: np.random.Generator, inputs: int, hidden: int) -> Weights:
    """Weights of the size that trained networks have: pre-activations of order 1."""
    shapes = {"w": (inputs, hidden), "u": (hidden, hidden), "b": (hidden,)}
    return {name: random.standard_normal(shapes[name[0]]) / np.sqrt(hidden) for name in NAMES}


def bidirectional(x: np.ndarray, num_frames: np.ndarray, directions: list[Weights]) -> np.ndarray:
    """States [batch, frame, hidden], directions summed, zero in padded frames."""
    hidden = len(directions[0]["b_n"])
    output = np.zeros((*x.shape[:2], hidden))
    for row, frames in enumerate(num_frames):
        for direction, w in enumerate(directions):
            states = [step["after"] for step in _run(_turned(x[row, :frames], direction), w)]
            output[row, :frames] += _turned(np.array(states).reshape(frames, hidden), direction)
    return output


def bidirectional_gradients(
    x: np.ndarray, num_frames: np.ndarray, directions: list[Weights], output_gradient: np.ndarray
) -> tuple[np.ndarray, list[Weights]]:
    """Gradients of sum(output * output_gradient) with respect to x and to each direction's weights."""
    dx = np.zeros_like(x)
    dweights = [{name: np.zeros_like(array) for name, array in w.items()} for w in directions]
    for row, frames in enumerate(num_frames):
        for direction, w in enumerate(directions):
            steps = _run(_turned(x[row, :frames], direction), w)
            dy = _turned(output_gradient[row, :frames], direction)
            dx[row, :frames] += _turned(_run_back(steps, dy, w, dweights[direction]), direction)
    return dx, dweights


def _turned(frames: np.ndarray, direction: int) -> np.ndarray:
    return frames[::-1] if direction == 1 else frames


def _sigmoid(a: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-a))


def _run(x: np.ndarray, w: Weights) -> list[dict[str, np.ndarray]]:
    h, steps = np.zeros(len(w["b_n"])), []
    for frame in x:
        r = _sigmoid(frame @ w["w_r"] + w["b_r"] + h @ w["u_r"])
        z = _sigmoid(frame @ w["w_z"] + w["b_z"] + h @ w["u_z"])
        q = h @ w["u_n"] + w["b_n"]
        n = np.tanh(frame @ w["w_n"] + w["b_x"] + r * q)
        after = (1.0 - z) * n + z * h
        steps.append({"x": frame, "before": h, "r": r, "z": z, "q": q, "n": n, "after": after})
        h = after
    return steps


def _run_back(steps: list[dict[str, np.ndarray]], dy: np.ndarray, w: Weights, dw: Weights) -> np.ndarray:
    """Gradient of the inputs; adds those of the weights to `dw`."""
    dx = np.zeros((len(steps), len(w["w_r"])))
    dh = np.zeros(len(w["b_n"]))
    for t in reversed(range(len(steps))):
        s = steps[t]
        dh = dh + dy[t]
        dn, dz, dbefore = dh * (1.0 - s["z"]), dh * (s["before"] - s["n"]), dh * s["z"]
        dn_sum = dn * (1.0 - s["n"] ** 2)  # through tanh
        dr, dq = dn_sum * s["q"], dn_sum * s["r"]
        dr_sum, dz_sum = dr * s["r"] * (1.0 - s["r"]), dz * s["z"] * (1.0 - s["z"])  # through the sigmoids
        for gate, bias, d in (("r", "b_r", dr_sum), ("z", "b_z", dz_sum), ("n", "b_x", dn_sum)):
            dw[f"w_{gate}"] += np.outer(s["x"], d)
            dw[bias] += d
            dx[t] += w[f"w_{gate}"] @ d
        for gate, d in (("r", dr_sum), ("z", dz_sum), ("n", dq)):
            dw[f"u_{gate}"] += np.outer(s["before"], d)
            dbefore = dbefore + w[f"u_{gate}"] @ d
        dw["b_n"] += dq
        dh = dbefore
    return dx
