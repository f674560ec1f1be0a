"""Shares of a ceiling, with times that a reader can divide; and whose data sheet is meant."""

import jax
import numpy as np
import pytest

from dsrun.study.ceilings import Ceilings, scan_iteration_seconds
from dsrun.study.datasheets import datasheet
from dsrun.study.flops import Work


@pytest.fixture(scope="module")
def limits():
    return Ceilings(["float32", "bfloat16"], jax.devices()[:1], product_size=32, copy_values=1000)


def test_a_share_is_the_median_of_rate_over_rate_of_one_round_each(limits):
    # The same work as the product's in twice its time, in a quiet round, a busy one and another quiet one.
    times = {"product float32": [1.0, 9.0, 1.0], "copy": [1.0, 9.0, 1.0], "layer": [2.0, 18.0, 2.0]}
    work = Work(sequential=32**3, hoistable=32**3, bytes=4 * 1000)
    found = limits.figures(times, "layer", work, "float32")
    assert found["share_of_measured_peak"] == pytest.approx(0.5)
    assert found["share_of_copy_bandwidth"] == pytest.approx(0.25)  # half of the bytes in twice the time
    assert found["tflop_per_second"] == pytest.approx(2 * 32**3 / 2.0 / 1e12)
    assert found["share_of_datasheet_peak"] is None


def test_shares_of_a_data_sheet_are_of_the_format_and_of_fma(limits, monkeypatch):
    monkeypatch.setattr(limits, "peaks", {"float32": 67.0, "bfloat16": 989.0})
    times = {"product bfloat16": [1.0], "copy": [1.0], "layer": [1.0]}
    found = limits.figures(times, "layer", Work(0, 67 * 10**11, 1), "bfloat16")
    assert found["share_of_datasheet_fma_peak"] == pytest.approx(0.1)
    assert found["share_of_datasheet_peak"] == pytest.approx(6.7 / 989)


def test_the_product_and_the_copy_do_what_they_are_counted_for(limits):
    (product,) = limits.calls["product float32"]()
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((32, 32), np.float32) for _ in range(2))
    np.testing.assert_allclose(product, a @ b, rtol=1e-4, atol=1e-5)  # another order of 32 float32 additions
    (narrow,) = limits.calls["product bfloat16"]()
    assert narrow.dtype == np.float32
    (first,) = (np.array(x) for x in limits.calls["copy"]())
    (second,) = limits.calls["copy"]()
    assert np.array_equal(second, -first)
    assert limits.copied_bytes == 2 * first.nbytes


def test_several_devices_multiply_at_the_same_time_and_count_together():
    two = Ceilings(["float32"], jax.devices()[:2], product_size=16, copy_values=100)
    assert {next(iter(x.devices())) for x in two.calls["product float32"]()} == set(jax.devices()[:2])
    assert (two.flops, two.copied_bytes) == (2 * 2 * 16**3, 2 * 2 * 4 * 100)


@pytest.mark.parametrize(
    ("kind", "fma"),
    [
        ("NVIDIA H100 80GB HBM3", 67.0),
        ("NVIDIA H200", 67.0),
        ("NVIDIA A100-SXM4-80GB", 19.5),
        ("Tesla V100-SXM2-16GB", 15.7),
        ("GeForce GTX TITAN X", 6.1),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA TITAN X (Pascal)", None),
        ("cpu", None),
    ],
)
def test_a_data_sheet_is_of_this_very_product(kind, fma):
    assert datasheet(kind).get("float32") == fma


def test_a_turn_of_a_scan_takes_some_time_and_less_than_a_second():
    assert 0.0 <= scan_iteration_seconds(jax.devices()[0], turns=64, rounds=3) < 1.0
