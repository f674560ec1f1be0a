"""The self-check passes here, fails where it should, and its answers file is current."""

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dsrun import self_check
from dsrun.arithmetic.formats import BFLOAT16, FLOAT16, FORMATS, MODES, RANDOM_MODES
from dsrun.self_check import ANSWERED, answers_of, float32_patterns, read_answers, run_self_check

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def checks():
    return run_self_check()


def test_nothing_fails_on_this_machine(checks):
    assert [check for check in checks if check.status == "FAIL"] == []


def test_a_row_is_pass_or_info_and_every_row_has_a_finding(checks):
    assert {check.status for check in checks} == {"PASS", "INFO"}
    assert all(check.found and check.passed for check in checks)
    assert len({check.name for check in checks}) == len(checks)


def test_doctor_prints_rows_of_the_shape_that_its_readers_expect(checks):
    assert set(checks[0].to_json()) == {"name", "expected", "found", "status", "passed"}


def test_this_cpu_flushes_float32_subnormals_and_the_kernel_keeps_them(checks):
    found = {check.name: check.found for check in checks}
    assert found["float32 subnormals in arithmetic"] == "flushed to zero"
    assert found["bfloat16's 127 positive subnormals survive rounding, bit for bit"] == "127 kept"


def test_a_rounding_that_is_deleted_is_a_fail(monkeypatch):
    monkeypatch.setattr(self_check, "round_to", lambda x, format: x)
    statuses = [check.status for check in self_check._rounding_under_jit() if check.status != "INFO"]
    assert statuses == ["FAIL", "FAIL", "FAIL"]


def test_a_rounding_by_float_arithmetic_loses_bfloat16s_subnormals_and_fails(monkeypatch):
    def divide_and_round(x, format, mode="ties_to_even", key=None):
        ulp = jnp.float32(2.0**-24 if format == FLOAT16 else 2.0**-133)  # the latter is flushed to zero
        return jnp.round(x / ulp) * ulp

    monkeypatch.setattr(self_check, "round_to", divide_and_round)
    assert [check.status for check in self_check._subnormals()] == ["PASS", "FAIL", "PASS", "INFO"]


@pytest.mark.parametrize(("bits", "digits"), [(11, "11 bits"), (8, "8 bits"), (24, "24 bits")])
def test_bits_kept_tells_tensorfloat32_and_bfloat16_products_from_float32(bits, digits):
    operand = (1.0 + 2.0 ** -np.arange(1, 24, dtype=np.float32)).astype(np.float32)
    narrow = np.where(np.arange(1, 24) < bits, operand, np.float32(1.0))
    assert self_check._bits_kept(operand, jnp.asarray(narrow)) == digits


def test_one_wrong_bit_in_one_format_is_a_fail_that_names_it():
    answers = read_answers()["rounding"]
    found = {"float16": answers["float16"] | {"ties_to_away": "0" * 64}}
    check = self_check._compare("answers", found, answers)
    assert (check.status, check.found) == ("FAIL", "6 equal; differ: float16 ties_to_away")


def test_the_answers_file_covers_every_format_and_every_mode_that_it_can_honour():
    answers = read_answers()["rounding"]
    assert set(answers) == set(ANSWERED) >= set(FORMATS)
    for name, modes in answers.items():
        assert tuple(modes) == (("ties_to_even", "ties_to_away", *RANDOM_MODES) if name == "binary" else MODES), name


def test_modes_of_a_format_give_different_answers():
    # int4 and ternary by a scale that is no power of two meet no tie, so their two nearest modes agree.
    without_ties = ("int4", "ternary")
    for name, modes in read_answers()["rounding"].items():
        expected = 1 if name == "float32" else len(modes) - (name in without_ties)
        assert len(set(modes.values())) == expected, name


def test_the_answers_file_is_part_of_the_package():
    assert json.loads(resources.files("dsrun.arithmetic").joinpath("answers.json").read_text()) == read_answers()


def test_inputs_hold_every_kind_of_float32():
    bits = float32_patterns().view(np.uint32) & np.uint32(0x7FFF_FFFF)
    assert bits.size == 83_424
    assert np.sum(bits == 0)
    assert np.sum(bits == 0x7F80_0000)
    assert np.sum(bits > 0x7F80_0000) > 100
    assert np.sum((bits > 0) & (bits < 0x0080_0000)) > 100


@pytest.mark.parametrize("name", ["float16", "fixed_q2.14", "float_e6m5 without subnormals", "ternary", "mxfp8_e4m3"])
def test_one_executable_gives_the_answers_that_were_computed_operation_by_operation(name):
    assert answers_of(name, jit=True) == read_answers()["rounding"][name]


def test_rounding_of_the_inputs_to_bfloat16_is_numpys_cast():
    import ml_dtypes

    inputs = float32_patterns()
    finite = inputs[np.isfinite(inputs)]
    expected = finite.astype(ml_dtypes.bfloat16).astype(np.float32)
    rounded = self_check.round_in_modes(
        jnp.asarray(finite), self_check.answer_key(), format=BFLOAT16, modes=["ties_to_even"]
    )
    assert np.array_equal(np.asarray(rounded["ties_to_even"]).view(np.uint32), expected.view(np.uint32))


def test_regolden_says_what_moved(tmp_path):
    code = """
import json, runpy, sys
from pathlib import Path
import dsrun.self_check as check
script, check.ANSWERS = sys.argv[1], Path(sys.argv[2])
answers = Path(sys.argv[3]).read_text()
check.all_answers = lambda: json.loads(answers)
old = json.loads(answers)
old["rounding"]["float16"]["ties_to_even"] = "another"
del old["rounding"]["binary"]
check.ANSWERS.write_text(json.dumps(old))
sys.path.insert(0, str(Path(script).parents[1] / "tests" / "golden"))
import states
states.DIGESTS = Path(sys.argv[4])
states.DIGESTS.write_text(json.dumps({"another kind": {"a": "1"}}))
states.state_digest = lambda case, devices: f"digest of {case}"
sys.argv = [script]
runpy.run_path(script, run_name="__main__")
"""
    copy = tmp_path / "answers.json"
    command = [sys.executable, "-c", code, str(ROOT / "scripts" / "regolden.py"), str(copy), str(self_check.ANSWERS)]
    command.append(str(tmp_path / "digests.json"))
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    modes = sorted(read_answers()["rounding"]["binary"])
    added = [f"added    rounding / binary / {mode}" for mode in modes]
    *answers, one, two, three = found.stdout.splitlines()
    assert answers == [*added, "changed  rounding / float16 / ties_to_even"]
    assert all(line.startswith("added    states / ") for line in (one, two, three))
    digests = json.loads((tmp_path / "digests.json").read_text())
    assert digests.pop("another kind") == {"a": "1"}, "what holds for other machines stays"
    assert [value["prompts_float32"] for value in digests.values()] == ["digest of prompts_float32"]
    assert json.loads(copy.read_text()) == read_answers()
