"""Which code walks the lattice where `auto` is to choose. The devices are made up: what decides is what a device says of itself."""

from unittest.mock import Mock

import jax
import pytest

from dsrun.arithmetic import FLOAT32_POLICY, Policy
from dsrun.arithmetic.formats import parse_format
from dsrun.arithmetic.policy import Rounding
from dsrun.ctc import auto_kernel, describe_auto_ctc


def device(platform, **facts):
    return Mock(spec=jax.Device, platform=platform, **facts)


CPU = device("cpu")  # has no attribute `compute_capability`
A100, H100, B200 = (device("gpu", compute_capability=version) for version in ("8.0", "9.0", "10.0"))
NAMELESS = device("gpu")


@pytest.fixture(autouse=True)
def shown_jax(monkeypatch):
    monkeypatch.setattr(jax, "__version__", "0.11.2")


NARROW = Policy(ctc=Rounding(parse_format("float16"), "ties_to_even"))


@pytest.mark.parametrize("devices", [[H100], [H100] * 8], ids=["one", "eight"])
@pytest.mark.parametrize("labels", [0, 1, 255])
def test_the_kernel_is_chosen_on_hopper_whatever_the_number_of_devices(devices, labels):
    """Were it another for eight devices than for one, their gradients would part in the last bits."""
    assert auto_kernel(FLOAT32_POLICY, devices, labels=labels) == "mosaic"
    said = describe_auto_ctc(FLOAT32_POLICY, "mosaic", devices, labels=labels)
    assert said.endswith("; one Mosaic kernel, a thread block an utterance")


@pytest.mark.parametrize(
    ("devices", "labels", "reason"),
    [
        ([A100], 9, "on GPUs of compute capability 9.0, not 8.0"),
        ([B200], 9, "on GPUs of compute capability 9.0, not 10.0"),
        ([H100, A100], 9, "on GPUs of compute capability 9.0, not 8.0 and 9.0"),
        ([NAMELESS], 9, "on GPUs of compute capability 9.0, not None"),
        ([H100], 256, "with 255 labels an utterance at most, not 256"),
    ],
)
def test_a_gpu_that_gets_the_scans_is_told_why_and_that_the_kernel_is_untried_there(devices, labels, reason):
    assert auto_kernel(FLOAT32_POLICY, devices, labels=labels) == "scan"
    said = describe_auto_ctc(FLOAT32_POLICY, "scan", devices, labels=labels)
    assert said.endswith(
        f"; two scans, because the Mosaic kernel was shown {reason}; kernels.ctc: mosaic is untried there"
    )


@pytest.mark.parametrize("version", ["0.10.2", "0.12.0", "0.110.0", "1.11.2"])
def test_another_jax_gets_the_scans_because_its_compiler_made_no_kernel_that_ran(version, monkeypatch):
    monkeypatch.setattr(jax, "__version__", version)
    assert auto_kernel(FLOAT32_POLICY, [H100], labels=9) == "scan"
    said = describe_auto_ctc(FLOAT32_POLICY, "scan", [H100], labels=9)
    assert f"shown with JAX 0.11, not {version};" in said


def test_a_cpu_and_a_narrow_format_get_the_scans_without_a_word_of_a_kernel_that_they_cannot_have():
    for policy, devices in (
        (FLOAT32_POLICY, [CPU]),
        (FLOAT32_POLICY, jax.devices()),
        (NARROW, [H100]),
        (NARROW, [A100]),
    ):
        assert auto_kernel(policy, devices, labels=9) == "scan"
        assert describe_auto_ctc(policy, "scan", devices, labels=9).endswith("; two scans")
