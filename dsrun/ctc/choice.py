"""Which CTC loss a policy asks for: the float32 one with exact exponents, or log space in a narrow format."""

from jaxtyping import Array, Float32, Int

from dsrun.arithmetic import Policy
from dsrun.arithmetic.policy import site_key
from dsrun.arithmetic.random_bits import Key
from dsrun.ctc.log_space import log_space_ctc_loss
from dsrun.ctc.loss import ctc_loss
from dsrun.ctc.mosaic import CtcKernel


def policy_ctc_loss(
    policy: Policy,
    logits: Float32[Array, "batch output_frame class"],
    num_frames: Int[Array, " batch"],
    labels: Int[Array, "batch label"],
    num_labels: Int[Array, " batch"],
    *,
    key: Key | None,
    kernel: CtcKernel = "scan",
) -> Float32[Array, " batch"]:
    """The loss in the arithmetic of the role `ctc`; arguments and conventions of `ctc_loss`. `key`: of this pass."""
    rounding = policy.ctc
    if rounding.is_exact:
        return ctc_loss(logits, num_frames, labels, num_labels, kernel=kernel)
    return log_space_ctc_loss(
        logits,
        num_frames,
        labels,
        num_labels,
        format=rounding.format,
        mode=rounding.mode,
        random_bits=rounding.random_bits,
        key=site_key(key, "ctc", "") if rounding.draws else None,
    )


def describe_ctc(policy: Policy, kernel: CtcKernel) -> str:
    """Which code computes the loss, in words."""
    if not policy.ctc.is_exact:
        return f"log space, every result rounded to {policy.ctc}; two scans"
    walks = "two scans" if kernel == "scan" else "one Mosaic kernel, a thread block an utterance"
    return f"float32 mantissas with int32 exponents; {walks}"
