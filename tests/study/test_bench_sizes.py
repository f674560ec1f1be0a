"""Sizes as they are written, and the memory that is said of them."""

import pytest

from dsrun.errors import UsageError
from dsrun.study.bench_ctc import ctc_problem, loss_and_gradient
from dsrun.study.bench_gru import layer_arguments, layer_pass
from dsrun.study.bench_sizes import (
    PRESETS,
    CtcSize,
    GruSize,
    gru_preset,
    parse_ctc_sizes,
    parse_gru_sizes,
)
from dsrun.study.stopwatch import compile_program


def test_a_size_is_read_as_it_is_written_and_once():
    assert parse_gru_sizes(["8x200x128", "8X200X128", "1x2x3"]) == (GruSize(8, 200, 128), GruSize(1, 2, 3))
    assert parse_ctc_sizes(["4x150x40x29"]) == (CtcSize(4, 150, 40, 29),)
    assert str(CtcSize(4, 150, 40, 29)) == "4x150x40x29"


@pytest.mark.parametrize("text", ["8x200", "8x200x128x2", "8x0x128", "8x-1x2", "8x200xlarge", "", "8*200*128"])
def test_what_is_no_size_is_refused_with_one_that_is(text):
    with pytest.raises(UsageError, match="BATCHxFRAMESxHIDDEN.*--sizes 16x200x256"):
        parse_gru_sizes([text])


@pytest.mark.parametrize("text", ["4x10x40x29", "4x10x5x2"])
def test_labels_that_cannot_be_aligned_are_refused(text):
    with pytest.raises(UsageError, match=f"--sizes {text}: .* labels in 10 frames"):
        parse_ctc_sizes([text])


def test_an_unknown_preset_names_those_there_are():
    with pytest.raises(UsageError, match="small, deepbench, deck"):
        gru_preset("deepbensh")


def test_deepbench_has_the_rows_of_deep_speech():
    assert {size.hidden for size in PRESETS["deepbench"]} == {1024, 1536, 2048, 2560, 2816}
    assert {size.frames for size in PRESETS["deepbench"]} == {187, 375, 750, 1500}
    assert [size.hidden for size in PRESETS["deepbench"] if size.batch == 64] == [1024]


@pytest.mark.parametrize("name", ["forward", "both"])
def test_the_estimate_for_a_gru_covers_what_the_compiler_plans_and_not_twice_that(name):
    size = GruSize(4, 64, 48)
    planned = compile_program(layer_pass("float32", name), *layer_arguments(size)).planned_bytes
    assert 0.5 < planned / size.bytes_needed(has_gradient=name == "both") < 1.05


def test_the_estimate_for_ctc_covers_what_the_compiler_plans():
    size = CtcSize(4, 100, 20, 29)
    planned = compile_program(loss_and_gradient, *ctc_problem(size)).planned_bytes
    assert 0.5 < planned / size.bytes_needed() < 1.1
