"""From a config to the things that train: what only the two together can tell is refused here."""

import json
import sys
from pathlib import Path
from unittest.mock import Mock

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from corpus import shortest_prompts, write_config, write_rows

from dsrun import build
from dsrun.config import load_config
from dsrun.errors import UsageError
from dsrun.speech import read_manifest
from dsrun.streamed_data import require_memory

CONFIG = Path(__file__).parent.parent / "configs" / "prompts_small_float32.yaml"
FLOAT16 = "{format: float16, rounding: ties_to_even}"
BFLOAT16_WITHOUT_MASTER = ("arithmetic.storage={format: bfloat16, rounding: ties_to_even}", "arithmetic.master=none")


def check(rules, *sets):
    config = load_config(CONFIG, [*sets, f"arithmetic.rules={rules}"]).config
    settings = build.build_model_settings(config, num_classes=29)
    policy = build.build_policy(config)
    build.check_rules(policy, settings)
    return policy


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (f"[{{path: gru_0_forwrd.u_r, storage: {FLOAT16}}}]", "did you mean 'gru_0_forward.u_r'"),
        (f"[{{path: '.*', storage: {FLOAT16}}}, {{path: 'gru_.*', storage: {FLOAT16}}}]", "an earlier rule takes all"),
        (f"[{{path: gru_0_forward.b_n, accumulate: {FLOAT16[:-1]}, chunk: 4}}}}]", "changes no accumulate"),
        (
            "[{path: output_kernel, update: {rounding: stochastic}}]",
            "output_kernel: the copy that is updated is float32",
        ),
    ],
)
def test_a_rule_that_would_change_nothing_is_refused_with_its_number_and_a_reason(rules, message):
    with pytest.raises(UsageError, match=r"arithmetic\.rules\.[01]: .*" + message):
        check(rules)


def test_rules_for_an_accumulator_a_master_and_an_update_reach_the_parameters_that_they_name():
    rules = (
        f"[{{path: '.*scale', master: {{format: float32}}}}, {{path: '.*[.]u_.', accumulate: {FLOAT16[:-1]}, chunk: 4}}}}, "
        "{path: output_kernel, update: {rounding: stochastic, random_bits: 3}}]"
    )
    policy = check(rules, *BFLOAT16_WITHOUT_MASTER)
    assert policy.rounding("master", "front_end.normalization.scale").is_exact
    assert str(policy.rounding("master", "front_end.normalization.shift")) == "bfloat16 ties_to_even"
    assert str(policy.rounding("update", "output_kernel")) == "bfloat16 stochastic(3)"
    assert str(policy.rounding("update", "gru_0_forward.u_r")) == "bfloat16 ties_to_even"
    assert str(policy.rounding("accumulate", "gru_0_forward.u_r")) == "float16 ties_to_even"
    assert policy.rounding("accumulate", "output_kernel").is_exact


def device(platform, **facts):
    return Mock(spec=jax.Device, platform=platform, **facts)


CPU, A100, H100 = (
    device("cpu"),
    device("gpu", compute_capability="8.0"),
    device("gpu", compute_capability="9.0"),
)


def ctc_kernel(device, *sets, labels=9):
    config = load_config(CONFIG, sets).config
    return build.build_ctc_kernel(config, build.build_policy(config), devices=[device], labels=labels)


def test_a_kernel_for_gpus_is_refused_without_one_and_for_an_arithmetic_that_it_does_not_have():
    assert ctc_kernel(A100, "kernels.ctc=mosaic", labels=2000) == "mosaic"
    with pytest.raises(UsageError, match="mosaic, which is for NVIDIA GPUs; JAX runs on cpu here"):
        ctc_kernel(CPU, "kernels.ctc=mosaic")
    with pytest.raises(UsageError, match=r"arithmetic\.ctc\.format is float16"):
        ctc_kernel(H100, "kernels.ctc=mosaic", f"arithmetic.ctc={FLOAT16}")


def test_scans_are_what_a_config_without_the_setting_has_even_where_the_kernel_was_shown(monkeypatch):
    monkeypatch.setattr(jax, "__version__", "0.11.2")
    assert ctc_kernel(H100) == ctc_kernel(H100, "kernels.ctc=scan") == "scan"
    assert ctc_kernel(H100, "kernels.ctc=auto") == "mosaic"
    assert ctc_kernel(A100, "kernels.ctc=auto") == "scan"


def test_the_step_walks_the_lattice_by_what_is_chosen_for_its_arithmetic_devices_and_labels(monkeypatch):
    config = load_config(CONFIG, ["kernels.ctc=auto"]).config
    settings, policy, devices = (
        build.build_model_settings(config, num_classes=5),
        build.build_policy(config),
        jax.devices(),
    )
    asked = []

    def chosen(*facts, **named):
        asked.append((*facts, named))
        return "interpreted"

    def make(config):
        return build.build_step(config, settings, policy, steps_per_epoch=1, labels=7, devices=devices)

    assert make(config).ctc_kernel == "scan", "on a CPU"
    monkeypatch.setattr("dsrun.build.auto_kernel", chosen)
    assert make(config).ctc_kernel == "interpreted"
    assert asked == [(policy, devices, {"labels": 7})]


@pytest.mark.parametrize(
    ("chosen", "words"), [("scan", "two scans"), ("mosaic", "one Mosaic kernel, a thread block an utterance")]
)
def test_what_is_said_of_ctc_is_what_the_step_runs_and_not_a_second_choice(chosen, words, monkeypatch):
    monkeypatch.setattr("dsrun.build.auto_kernel", lambda policy, devices, *, labels: chosen)
    for sets, said in ([], "two scans"), (["kernels.ctc=auto"], words):
        config = load_config(CONFIG, sets).config
        settings, policy = build.build_model_settings(config, num_classes=5), build.build_policy(config)
        step = build.build_step(config, settings, policy, steps_per_epoch=1, labels=7, devices=jax.devices()[:1])
        found = build.describe_ctc_kernel(config, step, labels=7)
        assert found == f"float32 mantissas with int32 exponents; {said}"


def test_recomputed_gates_are_refused_where_they_would_not_come_out_as_they_were():
    config = load_config(
        CONFIG, ["model.residuals=recompute", "arithmetic.compute={format: bfloat16, rounding: stochastic}"]
    ).config
    settings = build.build_model_settings(config, num_classes=5)
    with pytest.raises(UsageError, match="restores the gates of gru_0"):
        build.check_residuals(build.build_policy(config), settings)


def test_data_that_memory_cannot_hold_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    rows = shortest_prompts(4)
    manifest = write_rows(tmp_path / "train.jsonl", rows)
    config = load_config(write_config(tmp_path, train=manifest, dev=manifest)).config
    # Seconds of train at one speed and of dev, 100 frames each, 161 numbers of 4 bytes.
    speeds = config.augment.speeds if config.augment else (1.0,)
    seconds = sum(row["duration"] for row in rows)
    needed = seconds * (1 + sum(1 / speed for speed in {1.0, *speeds})) * 100 * 161 * 4
    utterances = read_manifest(manifest)
    monkeypatch.setattr("dsrun.streamed_data.available_memory", lambda: int(needed * 1.01))
    require_memory(config, {"train": utterances, "dev": utterances})
    monkeypatch.setattr("dsrun.streamed_data.available_memory", lambda: int(needed * 0.99))
    with pytest.raises(UsageError, match=r"data.loading: memory: .* need .* GB .* Write data.loading: streamed"):
        build.build_training_data(config)


def test_what_noises_and_kept_samples_take_is_counted_without_one_being_decoded(tmp_path, monkeypatch):
    manifest = write_rows(tmp_path / "train.jsonl", shortest_prompts(2))
    write_rows(tmp_path / "noises.jsonl", [{"audio_filepath": "nowhere.wav", "duration": 1000.0}])
    values = json.loads(write_config(tmp_path, train=manifest, dev=manifest).read_text())
    values["augment"] = {"noise": {"manifest": "noises.jsonl", "snr_db": [5, 10]}, "speeds": [0.9, 1.0]}
    (tmp_path / "tiny.yaml").write_text(json.dumps(values))
    config, utterances = load_config(tmp_path / "tiny.yaml").config, read_manifest(manifest)
    needed = 4 * 16_000 * (1000 + sum(utterance.duration for utterance in utterances))
    monkeypatch.setattr("dsrun.streamed_data.available_memory", lambda: int(needed * 1.01))
    require_memory(config, {"train": utterances})
    monkeypatch.setattr("dsrun.streamed_data.available_memory", lambda: int(needed * 0.99))
    with pytest.raises(UsageError, match="are free"):
        require_memory(config, {"train": utterances})
