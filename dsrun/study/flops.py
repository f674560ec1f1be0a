"""What a layer must compute and move, counted from its shape.

Not from the compiler: `compiled.cost_analysis()` counts the body of a loop once, whatever its trip count, and a recurrent layer is a
loop. The formulas are the tests' to doubt: there every product of the traced program is counted, a loop's as often as it turns.

Products are counted, two operations a multiply-add, and nothing else; gates and biases are a hundredth of them. Of a bidirectional
GRU layer with D inputs, H units and N frames in all,

    forward     input projections 12 D H N     recurrent products 12 H^2 N
    backward    dx 12 D H N     dW 12 D H N     dU 12 H^2 N     dh 12 H^2 N

The recurrent products and dh wait for the frame before: they are *sequential*, one small product a frame and gate. All others are
*hoistable*: one large product for all frames. Where only the states are kept (residuals: recompute), the backward pass repeats the
forward products, 12 D H N + 12 H^2 N, as large ones: a third more, *recomputed* work that is never credited.

CTC has no products worth the name. Counted are the operations of the textbook recursion on the 2 L + 1 states of a frame: forward
two additions and a multiplication, backward the same, occupancy a multiplication and an addition, 8 a lattice cell; and 6 a
logit for softmax and gradient (largest, difference, exp, sum, quotient, gradient's difference). What exact exponents cost beside is
not credited.

Bytes are a lower bound: arguments read once and results written once, in the format's own width. Whatever a program keeps between
its passes comes on top, and so does reading the recurrent matrices again at each frame where they do not stay on the chip
(`weight_bytes_a_frame`).
"""

from dataclasses import dataclass

from dsrun.model import Conv2dSettings, ModelSettings, output_frames
from dsrun.model.frontend import CONV_KERNELS, CONV_STRIDES, front_end_frames
from dsrun.study.bench_sizes import CtcSize, GruSize

CTC_OPERATIONS_A_CELL, CTC_OPERATIONS_A_LOGIT = 8, 6


@dataclass(frozen=True)
class Work:
    """Operations and bytes of one call; `recomputed` operations are not among the others."""

    sequential: int
    hoistable: int
    bytes: int
    recomputed: int = 0

    @property
    def flops(self) -> int:
        """What is credited."""
        return self.sequential + self.hoistable


def gru_work(size: GruSize, *, has_gradient: bool, item_bytes: int = 4, recompute: bool = False) -> Work:
    """A bidirectional layer forward, or forward and backward with gradients to input and weights."""
    frames, hidden = size.batch * size.frames, size.hidden
    unit = 12 * hidden * hidden * frames  # D = H, so all six terms are the same
    values, weights = frames * hidden, 2 * (6 * hidden * hidden + 4 * hidden)
    if not has_gradient:
        return Work(unit, unit, item_bytes * (2 * values + weights))
    # x, dy and the weights are read, dx and dW written.
    return Work(2 * unit, 4 * unit, item_bytes * (3 * values + 2 * weights), 2 * unit if recompute else 0)


def weight_bytes_a_frame(size: GruSize, item_bytes: int = 4) -> int:
    """The recurrent matrices of both directions."""
    return item_bytes * 6 * size.hidden**2


def ctc_work(size: CtcSize) -> Work:
    """Loss and gradient: the recursions are sequential, softmax and gradient are not."""
    frames = size.batch * size.frames
    cells, logits = frames * (2 * size.labels + 1), frames * size.classes
    in_order = 6 * cells
    all_at_once = (CTC_OPERATIONS_A_CELL - 6) * cells + CTC_OPERATIONS_A_LOGIT * logits
    return Work(in_order, all_at_once, 4 * 2 * logits)


@dataclass(frozen=True)
class NetworkFlops:
    """Forward operations of a network over a number of frames, by part."""

    front_end: int
    gru: int
    output: int
    gru_recurrent: int

    @property
    def forward(self) -> int:
        """All parts."""
        return self.front_end + self.gru + self.output

    @property
    def training(self) -> int:
        """Forward and backward: each product has two in its derivative. Credits the first layer with a dx that nobody needs."""
        return 3 * self.forward


def network_flops(settings: ModelSettings, lengths: list[int]) -> NetworkFlops:
    """Forward operations of utterances of so many frames before the front end.

    A convolution is counted at each of an utterance's own outputs with its whole kernel, also where that reaches over the edge.
    """
    frames = sum(output_frames(settings, length) for length in lengths)
    directions = 2 if settings.direction == "bidirectional" else 1
    front_end, inputs = _front_end_flops(settings, lengths)
    recurrent = settings.layers * 6 * directions * settings.hidden**2 * frames
    widths = [inputs] + [settings.hidden] * (settings.layers - 1)
    projections = sum(6 * directions * width * settings.hidden * frames for width in widths[: settings.layers])
    last = settings.hidden if settings.layers else inputs
    # A row convolution is a product of its roles' formats, though no matrix product, and part of what follows the GRU layers.
    lookahead = 2 * (settings.lookahead + 1) * last * frames if settings.lookahead else 0
    output = 2 * last * settings.num_classes * frames + lookahead
    return NetworkFlops(front_end, projections + recurrent, output, recurrent)


def _front_end_flops(settings: ModelSettings, lengths: list[int]) -> tuple[int, int]:
    """Operations, and features of an output frame."""
    front = settings.front_end
    if not isinstance(front, Conv2dSettings):
        frames = sum(front_end_frames(front, length) for length in lengths)
        return 2 * front.stack * settings.num_bins * front.hidden * frames, front.hidden
    total, channels, bins = 0, 1, settings.num_bins
    for (high, wide), (step, stride) in zip(CONV_KERNELS, CONV_STRIDES, strict=True):
        lengths, bins = [-(-length // stride) for length in lengths], -(-bins // step)
        total += 2 * high * wide * channels * front.channels * bins * sum(lengths)
        channels = front.channels
    return total, bins * channels
