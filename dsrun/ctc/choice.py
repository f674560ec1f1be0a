"""Which CTC loss a policy asks for: the float32 one with exact exponents, or log space in a narrow format. And which code walks its
lattice where `auto` is to choose: the kernel for GPUs where an H100 has shown it (docs/MEASUREMENTS.md, "GPU: one H100"), else the scans.

Shown was one H100 with one version of JAX, and there problems with all frames valid: not padded frames, not an utterance without labels
or without an alignment, not the same gradient twice, not a training step. So the scans are the default, and `auto` is for who asks.

That choice may move the last bits of the gradient (a frame's blanks are summed in another order), so it must be the same whenever a
run goes on or is replayed. It follows from the config, the data, the kind of device and the version of JAX, which a resume compares;
never from how many devices there are.
"""

from collections.abc import Sequence

import jax
from jaxtyping import Array, Float32, Int

from dsrun.arithmetic import Policy
from dsrun.arithmetic.policy import site_key
from dsrun.arithmetic.random_bits import Key
from dsrun.ctc.log_space import log_space_ctc_loss
from dsrun.ctc.loss import ctc_loss
from dsrun.ctc.mosaic import CtcKernel

SHOWN_CAPABILITY = "9.0"  # Hopper; of its models an H100 has run the kernel
SHOWN_JAX = "0.11"  # the H100 had 0.11.2; Mosaic's interface is experimental and its compiler comes with JAX
# Label columns, one more than labels, are padded to multiples of 128; an H100 has run one and two of them. More are the same code with more
# registers a thread, up to 14,000 columns, where shared memory ends; but no GPU has run that.
SHOWN_COLUMNS = 256


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


def auto_kernel(policy: Policy, devices: Sequence[jax.Device], *, labels: int) -> CtcKernel:
    """The kernel where it was shown, else the scans.

    Args:
        policy: the kernel has the float32 loss alone.
        devices: all that will run it.
        labels: the most that a batch has room for.
    """
    return "mosaic" if policy.ctc.is_exact and unshown(devices, labels=labels) is None else "scan"


def describe_ctc(policy: Policy, kernel: CtcKernel) -> str:
    """Which code computes the loss, in words."""
    if not policy.ctc.is_exact:
        return f"log space, every result rounded to {policy.ctc}; two scans"
    walks = "two scans" if kernel == "scan" else "one Mosaic kernel, a thread block an utterance"
    return f"float32 mantissas with int32 exponents; {walks}"


def describe_auto_ctc(policy: Policy, kernel: CtcKernel, devices: Sequence[jax.Device], *, labels: int) -> str:
    """The same of a kernel that `auto` chose; where a GPU has the scans, with the reason."""
    text, reason = describe_ctc(policy, kernel), unshown(devices, labels=labels)
    if kernel == "scan" and reason and policy.ctc.is_exact and devices[0].platform == "gpu":
        return f"{text}, because the Mosaic kernel was shown {reason}; kernels.ctc: mosaic is untried there"
    return text


def unshown(devices: Sequence[jax.Device], *, labels: int) -> str | None:
    """What the kernel was shown with and this is not; None if it was shown with this."""
    found = sorted({str(getattr(device, "compute_capability", None)) for device in devices})
    if found != [SHOWN_CAPABILITY]:
        return f"on GPUs of compute capability {SHOWN_CAPABILITY}, not {' and '.join(found)}"
    if not jax.__version__.startswith(f"{SHOWN_JAX}."):
        return f"with JAX {SHOWN_JAX}, not {jax.__version__}"
    if labels >= SHOWN_COLUMNS:
        return f"with {SHOWN_COLUMNS - 1} labels an utterance at most, not {labels}"
    return None
