"""CTC as a program written in a narrow format would compute it: log space, every intermediate result rounded.

The study variant, to show what `ctc_loss`'s float32 island is worth; it is not the default and not accurate. A path's
log-probability grows with the utterance, and so does its ulp: at -300 float16 knows it to 0.25, so an occupancy, the
exponential of a sum of two such logarithms less a third, is off by a factor. bfloat16 is eight times coarser.

What is rounded. Logits on arrival; then the result of each subtraction, exp, log, log1p and addition (maxima are exact):

    log_probs[k] = (x[k] - max x) - log(sum of exp(x[j] - max x))       the sum a binary tree, rounded at each addition
    a (+) b      = max + log1p(exp(min - max))                          three terms: (a (+) b) (+) c
    occupancy    = exp((prefix + (suffix + log_prob)) - total)
    gradient     = exp(log_probs) - occupancy of the class

The occupancies of a class (the blanks, repeated labels) are summed in float32 and rounded once: it is a matrix product,
and those accumulate in float32 here. exp, log and log1p are float32's, rounded once: but for near ties, what a correctly
rounded function of the format would give.

The lattice is that of `loss`, its columns interleaved: state 2 i is blank i, state 2 i + 1 label i. `prefix` and `suffix` are
sums over the ways to reach and to leave a state, its own emission left out. log 0 is -infinity, so the format needs an
infinity and must overflow to it; a sum of logarithms below the range is log 0 too.

Nothing is repaired: the occupancies of a frame are not divided by their sum, and where prefix, suffix and total have
drifted apart a frame's gradient does not sum to 0. Source: Graves et al. 2006, the recursion.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, UInt32

from dsrun.arithmetic.formats import DEFAULT_RANDOM_BITS, FloatFormat, Format
from dsrun.arithmetic.random_bits import fold_in
from dsrun.arithmetic.rounding import round_to
from dsrun.ctc.alignment import BLANK
from dsrun.ctc.loss import _label_columns, _masked_gradient, _sum_by_class, _weighted

_LOG_0 = float("-inf")
_LARGEST = float(jnp.finfo(jnp.float32).max)


def log_space_ctc_loss(
    logits: Float[Array, "batch output_frame class"],
    num_frames: Int[Array, " batch"],
    labels: Int[Array, "batch label"],
    num_labels: Int[Array, " batch"],
    *,
    format: Format,
    mode: str = "ties_to_even",
    random_bits: int = DEFAULT_RANDOM_BITS,
    key: UInt32[Array, "2"] | None = None,
) -> Float32[Array, " batch"]:
    """-log p(labels | logits) of each utterance, computed in `format`; arguments and results as `ctc_loss` has them.

    Args:
        logits, num_frames, labels, num_labels: as in `ctc_loss`; logits are rounded to `format` first.
        format: a float format with infinity that overflows to it: float32, tensorfloat32, bfloat16, float16, float8_e5m2,
            float_eXmY, ...
        mode, random_bits: of every rounding.
        key: for the modes that draw; each rounding and each frame has its own key, folded from this one.

    Returns:
        Loss in nats on the format's grid, at least 0 (a loss that rounding made negative is 0). Infinite, with a gradient of
        exactly 0, without a valid alignment, and also where every alignment's log-probability left the format's range (float16:
        below -65504). NaN for a valid frame with NaN, +infinity (as rounded) or without a finite logit. Padded frames
        have no effect and gradient 0, whatever they hold.

    Raises:
        ValueError: a format that cannot hold log 0; a mode that draws without `key`, or one that does not with it.

    Arithmetic:
        The gradient of a loss of weight 1 is on the grid too, and may be infinite: an occupancy is exp of what three
        rounded logarithms leave. The product with the incoming gradient is float32's: what flows back is the role `gradient`.
        A loss scale comes too late for what underflows here. No scatter. Stochastic bits depend on the padded shape,
        not on what the padding holds. Differentiable once, by `logits` only.

    Source: Graves et al. 2006.
    """
    if not (isinstance(format, FloatFormat) and format.overflow == "infinity"):
        raise ValueError(
            f"CTC in log space needs log 0, and {format} cannot become infinite. Use a format that overflows to infinity: "
            "float32, tensorfloat32, bfloat16, float16, float8_e5m2 or a float_eXmY."
        )
    how = _Rounding(format, mode, random_bits)
    num_frames, labels, num_labels = (x.astype(jnp.int32) for x in (num_frames, labels, num_labels))
    return _log_space_ctc_loss(how, logits.astype(jnp.float32), num_frames, labels, num_labels, key)


@dataclass(frozen=True)
class _Rounding:
    """How every result is rounded."""

    format: FloatFormat
    mode: str
    random_bits: int


@dataclass(frozen=True)
class _Rounder:
    """A rounding with the key of one part of the computation; parts and sites are numbered, each draws its own bits."""

    how: _Rounding
    key: UInt32[Array, "2"] | None

    def part(self, number: UInt32[Array, ""] | int) -> "_Rounder":
        return self if self.key is None else _Rounder(self.how, fold_in(self.key, number))

    def __call__(self, x: Float32[Array, "*shape"], site: int) -> Float32[Array, "*shape"]:
        key = self.part(site).key
        return round_to(x, self.how.format, mode=self.how.mode, random_bits=self.how.random_bits, key=key)


class _States(NamedTuple):
    """The label sequence as states blank 0, label 0, blank 1, ..., blank L, and a label that is never used."""

    ids: Int32[Array, "batch state"]
    is_start: Bool[Array, "batch state"]  # blank 0 and label 0
    is_end: Bool[Array, "batch state"]  # blank `num_labels`, in which every path ends
    can_skip: Bool[Array, "batch state"]  # may be entered from two states before: a label unlike the one before it


class _Emissions(NamedTuple):
    """What a step of the two loops reads, time first; the frame's number tells its random bits from another's."""

    log_probs: Float32[Array, "output_frame batch state"]
    frame: UInt32[Array, " output_frame"]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_space_ctc_loss(
    how: _Rounding,
    logits: Float32[Array, "batch output_frame class"],
    num_frames: Int32[Array, " batch"],
    labels: Int32[Array, "batch label"],
    num_labels: Int32[Array, " batch"],
    key: UInt32[Array, "2"] | None,
) -> Float32[Array, " batch"]:
    rounder = _Rounder(how, key)
    states = _states_of(labels, num_labels)
    frames = _frames_of(logits, num_frames, rounder.part(0))
    last, _ = _prefixes(states, _emissions(states, frames), rounder.part(1), keep=False)
    return _loss(_total(states, last), frames)


def _forward(
    how: _Rounding,
    logits: Float32[Array, "batch output_frame class"],
    num_frames: Int32[Array, " batch"],
    labels: Int32[Array, "batch label"],
    num_labels: Int32[Array, " batch"],
    key: UInt32[Array, "2"] | None,
) -> tuple[Float32[Array, " batch"], Float32[Array, "batch output_frame class"]]:
    """Loss, and its gradient as the only residual."""
    rounder = _Rounder(how, key)
    states = _states_of(labels, num_labels)
    frames = _frames_of(logits, num_frames, rounder.part(0))
    emissions = _emissions(states, frames)
    last, prefixes = _prefixes(states, emissions, rounder.part(1), keep=True)
    assert prefixes is not None
    total = _total(states, last)
    occupancies = _occupancies(states, emissions, prefixes, total, rounder.part(2))
    return _loss(total, frames), _gradient(states, occupancies, total, frames, rounder.part(3))


def _backward(
    how: _Rounding, gradient: Float32[Array, "batch output_frame class"], loss_gradient: Float32[Array, " batch"]
) -> tuple[Float32[Array, "batch output_frame class"], None, None, None, None]:
    return _weighted(gradient, loss_gradient), None, None, None, None


_log_space_ctc_loss.defvjp(_forward, _backward)


def _states_of(labels: Int32[Array, "batch label"], num_labels: Int32[Array, " batch"]) -> _States:
    column = _label_columns(labels, num_labels)
    ids = _interleaved(jnp.full_like(column.ids, BLANK), column.ids)
    never = jnp.zeros_like(column.is_end)
    is_start = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32)[None, :] < 2, ids.shape)
    can_skip = _interleaved(never, column.no_skip == 0)
    return _States(ids, is_start, _interleaved(column.is_end, never), can_skip)


def _interleaved(blank: Array, label: Array) -> Array:
    return jnp.stack([blank, label], axis=2).reshape(blank.shape[0], -1)


class _Frames(NamedTuple):
    """The softmax of every frame."""

    log_probs: Float32[Array, "batch output_frame class"]
    is_valid: Bool[Array, "batch output_frame"]
    is_bad: Bool[Array, " batch"]  # a valid frame has no finite maximum


def _frames_of(
    logits: Float32[Array, "batch output_frame class"], num_frames: Int32[Array, " batch"], rounder: _Rounder
) -> _Frames:
    """Log-softmax in the format; padded frames are replaced before any arithmetic."""
    is_valid = jnp.arange(logits.shape[1], dtype=jnp.int32)[None, :] < num_frames[:, None]
    logits = rounder(jnp.where(is_valid[:, :, None], logits, jnp.float32(0)), 0)
    largest = jnp.max(logits, axis=2, keepdims=True)
    relative = rounder(logits - largest, 1)
    normalizer = _sum_classes(rounder(jnp.exp(relative), 2), rounder.part(3))
    log_probs = rounder(relative - rounder(jnp.log(normalizer), 4), 5)
    return _Frames(log_probs, is_valid, jnp.any(~jnp.isfinite(largest[:, :, 0]), axis=1))


def _sum_classes(
    x: Float32[Array, "batch output_frame class"], rounder: _Rounder
) -> Float32[Array, "batch output_frame 1"]:
    """Padded with zeros to a power of two, folded in halves; every addition rounded."""
    levels = (x.shape[2] - 1).bit_length()
    x = jnp.pad(x, ((0, 0), (0, 0), (0, (1 << levels) - x.shape[2])))
    for level in range(levels):
        half = x.shape[2] // 2
        x = rounder(x[:, :, :half] + x[:, :, half:], level)
    return x


def _emissions(states: _States, frames: _Frames) -> _Emissions:
    """Log-probabilities by state. Padded frames: blank log 1, labels log 0, so that a path waits in its last blank."""
    by_state = jnp.take_along_axis(frames.log_probs, states.ids[:, None, :], axis=2, mode="clip")
    in_padding = jnp.where(states.ids == BLANK, jnp.float32(0), jnp.float32(_LOG_0))[:, None, :]
    by_state = jnp.where(frames.is_valid[:, :, None], by_state, in_padding)
    return _Emissions(jnp.swapaxes(by_state, 0, 1), jnp.arange(by_state.shape[1], dtype=jnp.uint32))


def _prefixes(
    states: _States, emissions: _Emissions, rounder: _Rounder, *, keep: bool
) -> tuple[Float32[Array, "batch state"], Float32[Array, "output_frame batch state"] | None]:
    """log of the sums over the ways to reach each state: after the last frame; at each (`keep`)."""

    def step(prefix: Array, frame: _Emissions) -> tuple[Array, Array | None]:
        at_frame = rounder.part(frame.frame)
        here = at_frame(prefix + frame.log_probs, 0)
        skipping = jnp.where(states.can_skip, _shifted(here, 2, _LOG_0), jnp.float32(_LOG_0))
        following = _log_add(_log_add(here, _shifted(here, 1, _LOG_0), at_frame.part(1)), skipping, at_frame.part(2))
        return following, prefix if keep else None

    return jax.lax.scan(step, _log_one_where(states.is_start), emissions)


def _occupancies(
    states: _States,
    emissions: _Emissions,
    prefixes: Float32[Array, "output_frame batch state"],
    total: Float32[Array, " batch"],
    rounder: _Rounder,
) -> Float32[Array, "output_frame batch state"]:
    """Share of the paths through each state, at each frame; rounding can take it above 1."""

    def step(suffix: Array, inputs: tuple[_Emissions, Array]) -> tuple[Array, Array]:
        frame, prefix = inputs
        at_frame = rounder.part(frame.frame)
        here = at_frame(suffix + frame.log_probs, 0)
        through = at_frame(at_frame(prefix + here, 1) - total[:, None], 2)
        occupancy = at_frame(jnp.exp(through), 3)
        skipping = _shifted(jnp.where(states.can_skip, here, jnp.float32(_LOG_0)), -2, _LOG_0)
        preceding = _log_add(_log_add(here, _shifted(here, -1, _LOG_0), at_frame.part(4)), skipping, at_frame.part(5))
        return preceding, occupancy

    is_last_label = _shifted(states.is_end, -1, False)
    end = _log_one_where(states.is_end | is_last_label)
    _, occupancies = jax.lax.scan(step, end, (emissions, prefixes), reverse=True)
    return occupancies


def _log_one_where(condition: Bool[Array, "batch state"]) -> Float32[Array, "batch state"]:
    return jnp.where(condition, jnp.float32(0), jnp.float32(_LOG_0))


def _log_add(
    a: Float32[Array, "batch state"], b: Float32[Array, "batch state"], rounder: _Rounder
) -> Float32[Array, "batch state"]:
    """log(exp(a) + exp(b)); exact where one of them is log 0."""
    largest = jnp.maximum(a, b)
    # -infinity less itself is NaN.
    subtrahend = jnp.where(largest == jnp.float32(_LOG_0), jnp.float32(0), largest)
    ratio = rounder(jnp.exp(rounder(jnp.minimum(a, b) - subtrahend, 0)), 1)
    return rounder(largest + rounder(jnp.log1p(ratio), 2), 3)


def _total(states: _States, last: Float32[Array, "batch state"]) -> Float32[Array, " batch"]:
    """log p(labels), from the one end state."""
    return jnp.max(jnp.where(states.is_end, last, jnp.float32(_LOG_0)), axis=1)


def _loss(total: Float32[Array, " batch"], frames: _Frames) -> Float32[Array, " batch"]:
    return jnp.where(frames.is_bad, jnp.float32(jnp.nan), jnp.maximum(-total, jnp.float32(0)))


def _gradient(
    states: _States,
    occupancies: Float32[Array, "output_frame batch state"],
    total: Float32[Array, " batch"],
    frames: _Frames,
    rounder: _Rounder,
) -> Float32[Array, "batch output_frame class"]:
    """softmax - occupancy; zero in padded frames and without an alignment, NaN where the loss is."""
    class_id = jnp.arange(frames.log_probs.shape[2], dtype=jnp.int32)
    # An infinite occupancy times the 0 of another class would be NaN; the largest float32 rounds to infinity again.
    by_class = _sum_by_class(states.ids, jnp.minimum(occupancies, jnp.float32(_LARGEST)), class_id)
    gradient = rounder(rounder(jnp.exp(frames.log_probs), 0) - rounder(by_class, 1), 2)
    return _masked_gradient(gradient, frames.is_valid, total > jnp.float32(_LOG_0), frames.is_bad)


def _shifted(x: Array, by: int, edge: float | bool) -> Array:
    """State s receives state s - by, the edge from outside."""
    before, after = max(by, 0), max(-by, 0)
    return jnp.pad(x, ((0, 0), (before, after)), constant_values=edge)[:, after : after + x.shape[1]]
