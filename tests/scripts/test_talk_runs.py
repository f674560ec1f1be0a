"""The talk's verdicts from run folders: which run is whose, how it ended, and what a stranger's text may do to the page."""

import json

import numpy as np
import pytest

from scripts.talk import pages, parts, sizes
from scripts.talk.evidence import Evidence
from scripts.talk.pages import CLAIMS, claims_table, judge, markdown
from tests.study.run_folders import magnitudes_of, write_run_folder, write_watched_run

SAID = "the quick brown fox"
READ = {"float32": "the quick brown fix", "bad": "the slow"}


def _run(folder, variation, seed, *, read="float32", digits="aaaaaa", diverged=False, said=SAID, **options):
    texts = {"test": [(f"u{n}", said, READ.get(read, read) + " x" * (n % 3)) for n in range(30)]}
    state = {"state": "failed", "status": {"exit_code": 4}} if diverged else {"texts": texts}
    name = f"{variation}-seed={seed}-{digits}"
    return write_run_folder(
        folder / "runs" / name, config={"seed": seed} | options.pop("config", {}), **state | options
    )


def _judged(folder, name):
    return judge(next(claim for claim in CLAIMS if claim.name == name), Evidence(folder))


def test_training_that_diverges_with_every_seed_is_the_strongest_loss(tmp_path):
    for seed in (1, 2, 3):
        _run(tmp_path, "float32", seed)
        _run(tmp_path, "fixed16_nearest", seed, diverged=True)
    found = _judged(tmp_path, "loses_fixed16")
    assert found.verdict == "agrees"
    assert "seeds 1, 2, 3 diverged, counted as lost" in found.measured
    assert found.numbers["diverged"] == [1, 2, 3]
    assert _judged(tmp_path, "lost_fixed16").verdict == "cannot tell"  # what it swallowed is of no trained network


def test_a_remedy_that_diverges_is_none_and_one_that_holds_where_nearest_diverges_is_one(tmp_path):
    for seed in (1, 2):
        _run(tmp_path, "float32", seed)
        _run(tmp_path, "bfloat16_stochastic", seed, diverged=True)
        _run(tmp_path, "bfloat16_nearest", seed, read="bad")
        _run(tmp_path, "fixed16_stochastic", seed)
        _run(tmp_path, "fixed16_nearest", seed, diverged=True)
    assert _judged(tmp_path, "recovers_bfloat16").verdict == "differs"
    found = _judged(tmp_path, "recovers_fixed16")
    assert found.verdict == "agrees"
    assert "fixed16_nearest none (seeds 1, 2 diverged)" in found.measured


def test_a_survivor_is_not_as_good_as_float32(tmp_path):
    for seed in (1, 2, 3):
        _run(tmp_path, "float32", seed)
        _run(tmp_path, "float16_storage", seed, diverged=seed > 1)
    found = _judged(tmp_path, "float16_storage")
    assert found.verdict == "cannot tell"
    assert "seeds 2, 3 diverged, counted as lost" in found.measured
    assert "one seed" in found.measured


def test_a_verdict_needs_two_seeds_and_says_which(tmp_path):
    _run(tmp_path, "float32", 1)
    _run(tmp_path, "bfloat16_nearest", 1, read="bad")
    found = _judged(tmp_path, "loses_bfloat16")
    assert found.verdict == "cannot tell"
    assert "seeds 2, 3 not complete on both sides" in found.measured
    _run(tmp_path, "float32", 2)
    _run(tmp_path, "bfloat16_nearest", 2, read="bad")
    found = _judged(tmp_path, "loses_bfloat16")
    assert found.verdict == "agrees"
    assert "over utterances and 2 seeds (seeds 1, 2), p = " in found.measured


def test_of_two_folders_for_one_seed_the_sweeps_own_is_taken_and_without_it_neither(tmp_path):
    for seed in (1, 2):
        _run(tmp_path, "float32", seed)
        _run(tmp_path, "bfloat16_nearest", seed, read="bad")
    _run(tmp_path, "bfloat16_nearest", 2, digits="bbbbbb")
    found = _judged(tmp_path, "loses_bfloat16")
    assert found.verdict == "not run"
    assert "bfloat16_nearest-seed=2-aaaaaa and bfloat16_nearest-seed=2-bbbbbb" in found.measured
    assert _judged(tmp_path, "float16_storage").measured.startswith("float16_storage has no complete run")
    listed = {"runs": [{"name": "bfloat16_nearest-seed=2", "run": "/elsewhere/runs/bfloat16_nearest-seed=2-aaaaaa"}]}
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "seed_2.json").write_text(json.dumps(listed))
    assert _judged(tmp_path, "loses_bfloat16").verdict == "agrees"


def test_seeds_of_different_settings_are_not_pooled(tmp_path):
    for seed in (1, 2):
        _run(tmp_path, "float32", seed)
        _run(tmp_path, "bfloat16_nearest", seed, read="bad", config={"model.hidden": 16 * seed})
    found = _judged(tmp_path, "loses_bfloat16")
    assert found.verdict == "not run"
    assert "(model.hidden)" in found.measured


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_judged(tmp_path):
    for seed in (1, 2, 3):
        _run(tmp_path, "float32", seed)
        _run(tmp_path, "bfloat16_nearest", seed, read="bad")
    (tmp_path / "runs" / "float32-seed=2-aaaaaa" / "config.yaml").write_text("seed: [")
    (tmp_path / "runs" / "bfloat16_nearest-seed=3-aaaaaa" / "evaluation" / "test.jsonl").write_text("{")
    _run(tmp_path, "binary", 1, state="running")
    evidence = Evidence(tmp_path)
    assert [text.split()[0] for text in evidence.left_out] == [
        f"{name}-aaaaaa" for name in ("bfloat16_nearest-seed=3", "binary-seed=1", "float32-seed=2")
    ]
    assert "(seed 1)" in _judged(tmp_path, "loses_bfloat16").measured
    table = markdown(pages.judge_all(evidence), {}, left_out=evidence.left_out)
    assert "no number here is of this run folder: float32-seed=2-aaaaaa cannot be read" in table


def test_the_full_size_sweep_lacks_some_variations_and_says_so(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"size": "full", "data": ["a.jsonl", "b.jsonl", "c.jsonl"]}))
    (tmp_path / "parts.json").write_text(json.dumps({"sweep": {"state": "done", "minutes": 1}}))
    for seed in (1, 2):
        _run(tmp_path, "float32", seed)
    found = _judged(tmp_path, "one_bit")
    assert found.verdict == "not testable here"
    assert "talk_full.yaml" in found.measured
    rows = {row.claim.name: row for row in pages.judge_all(Evidence(tmp_path))}
    for row in rows.values():
        assert "small" not in row.tested
        assert "configs/sweeps/talk.yaml" not in row.command
        assert row.command == "none" or row.command.startswith(
            "scripts/reproduce_talk.sh --full --data a.jsonl b.jsonl c.jsonl --folder "
        )
    assert "deep_speech_2" in rows["float16_storage"].tested


def test_commands_name_the_folder_that_they_are_about(tmp_path):
    claims = {claim.name: claim for claim in CLAIMS}
    own = sizes.wording(parts.REPOSITORY / "runs" / "talk", "small")
    assert sizes.command(claims["same_run"], own, "small").startswith(
        "scripts/reproduce_talk.sh --only bits; dsrun diff runs/talk/bits/first"
    )
    other = sizes.wording(tmp_path, "small")
    assert f"--folder {tmp_path}/runs" in sizes.command(claims["float8"], other, "small")


@pytest.mark.parametrize(("draw", "verdict"), [("normal", "differs"), ("standard_t", "agrees")])
def test_normal_numbers_are_no_power_law_and_students_t_is(tmp_path, draw, verdict):
    rng = np.random.default_rng(0)
    values = rng.normal(size=200_000) if draw == "normal" else rng.standard_t(2, size=200_000)
    exponents, counts = np.unique(np.frexp(np.abs(values))[1] - 1, return_counts=True)
    counts = dict(zip(exponents.tolist(), counts.tolist(), strict=True))
    kinds = ("weight", "activation", "weight_gradient")
    tensors = [{"path": f"output.{kind}", "kind": kind, "format": "float32", "counts": counts} for kind in kinds]
    last = [tensor for tensor in tensors if tensor["kind"] == "weight"]  # activations are not at every watched step
    for seed in (1, 2):
        tables = [magnitudes_of(1, tensors), magnitudes_of(4, last)]
        write_watched_run(tmp_path / "runs" / f"float32-seed={seed}-aaaaaa", tables, config={"seed": seed})
    found = _judged(tmp_path, "power_laws")
    assert found.verdict == verdict
    assert "of 6 distributions (kind, layer, seed) 6 are peaked" in found.measured


def test_a_skipped_step_swallows_no_update(tmp_path):
    def updates(step, changed):
        return magnitudes_of(
            step,
            [
                {
                    "path": "output.kernel",
                    "kind": "update",
                    "format": "float32",
                    "counts": {-9: 100},
                    "updates": 100,
                    "changed": changed,
                }
            ],
        )

    for seed in (1, 2):
        folder = tmp_path / "runs" / f"float16_nearest-seed={seed}-aaaaaa"
        write_watched_run(folder, [updates(4, 100), updates(8, 0)], config={"seed": seed})
        lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        skipped = [line | ({"finite": False} if (line["event"], line["step"]) == ("step", 8) else {}) for line in lines]
        (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in skipped))
    found = _judged(tmp_path, "lost_float16")
    assert found.verdict == "differs"
    assert "at step 4 none of the updates" in found.measured


def test_what_a_stranger_said_shows_and_does_nothing(tmp_path):
    text = "<img src=x onerror=alert(1)> [a](http://b) `c` \x1b[31m \u202e |d| \ud800"
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "scores.json").write_text(
        json.dumps({"cer": 0.2, "cer_interval": [0.1, 0.3], "wer": 0.4, "wer_interval": [0.3, 0.5]})
    )
    (tmp_path / "speech" / "transcript.json").write_text(json.dumps({"results": [{"file": "x.wav", "text": text}]}))
    rows = pages.judge_all(Evidence(tmp_path))
    table, page = markdown(rows, {}), str(claims_table(rows))
    shown = "\\<img src=x onerror=alert(1)\\> \\[a\\](http:\\//b) \\`c\\` \\[U+001B\\]\\[31m \\[U+202E\\] \\|d\\| \\[U+D800\\]"
    assert shown in table
    assert "<bdi>test CER 0.200" in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    for unsafe in ("<img", "\x1b", "\u202e", "\ud800"):
        assert unsafe not in page
    for unsafe in ("\x1b", "\u202e", "\ud800"):
        assert unsafe not in table
