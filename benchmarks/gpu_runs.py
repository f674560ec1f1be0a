"""Parts of the GPU report that are whole commands: the self-check, equal runs, rounding, CTC's accuracy, narrow formats on real speech.

    python -m benchmarks.gpu_runs doctor|twice|memory|prompts|rounding|accuracy|quickstart [--tiny]

* `doctor`: the self-check, with the answers file of the rounding kernel; a check that fails is a row with what was expected.
* `twice`: the quickstart's first epochs, the same run twice at the same time, and once killed after a checkpoint and resumed; digests
  of all state bits must be equal.
* `memory`: the quickstart with a small share of the GPU's memory: what the preflight says before the first step.
* `prompts`: `dsrun bench step` of Deep Speech 2 on the prompts that are shipped: real lengths, padding, the wait for the loader,
  and where the time goes.
* `rounding`, `accuracy`: `benchmarks.rounding` and `benchmarks.ctc_accuracy`.
* `quickstart`: a short run for float32, and for float16 and bfloat16 emulated (values on the grid in float32 arrays) and native (arrays of
  the format's own dtype): time, rate, the wait for data, and bytes of weights, gradients and state. And float32 with `determinism`
  off and autotuned: what determinism costs.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts import ROOT, SHARED_MEMORY, Failed, Settings, in_words, part_settings, row

TINY = [
    "model.front_end={kind: frame_stack, stack: 3, stride: 3, hidden: 16}",
    "model.hidden=16",
    "model.layers=1",
    "batches.buckets=1",
]
TINY_DEEP_SPEECH = ["model.hidden=16", "model.layers=1", "model.front_end.channels=2", "batches.buckets=1"]
QUICKSTART, DEEP_SPEECH = "configs/prompts_float32.yaml", "configs/deep_speech_2.yaml"
PROMPTS = [f"data.{split}={ROOT / 'data' / 'prompts_en' / f'{split}.jsonl'}" for split in ("train", "dev", "test")]
# Errors have the dtype of what they are errors of in a native network, so the emulated one beside it rounds them too. The loss scale
# keeps float16's gradients finite.
NARROW_ROLES = ("storage", "compute", "gradient")
LOSS_SCALE = "arithmetic.loss_scale={kind: dynamic}"
VARIANTS = (
    ("float32", "emulated"),
    ("bfloat16", "native"),
    ("float16", "native"),
    ("bfloat16", "emulated"),
    ("float16", "emulated"),
)


# Enough for the weights of the quickstart and not for its largest batch: of an H100's 80 GB, 200 MB.
MEMORY_SHARE = "0.0025"


class Command:
    """A program that runs beside others; `output` waits for it."""

    def __init__(self, *arguments: str, accept: tuple[int, ...] = (0,), variables: dict[str, str] | None = None):
        self.accept = accept
        variables = os.environ | SHARED_MEMORY | (variables or {})
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=variables,
        )

    def output(self) -> str:
        """What it printed. Raises Failed with its last words."""
        found, complaints = self.process.communicate()
        if self.process.returncode not in self.accept or not found:
            raise Failed(f"exit code {self.process.returncode}: {in_words(complaints)}")
        return found


def training(config: str, folder: Path, *sets: str) -> Command:
    """A training run in this folder."""
    return Command("dsrun", "train", "--config", config, "--run-dir", str(folder), "--json", *_options(sets))


def _options(sets: tuple[str, ...] | list[str]) -> list[str]:
    return [word for value in sets for word in ("--set", value)]


def events(command: Command, folder: Path) -> list[dict[str, Any]]:
    """Of a run, when it is over."""
    command.output()
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def doctor(settings: Settings) -> None:
    """The rows of `dsrun doctor`; it exits with 1 where one of them fails."""
    found = json.loads(Command("dsrun", "doctor", "--json", accept=(0, 1)).output())
    for name in ("devices", "jax"):
        row(name, str(found["facts"][name]))
    for check in found["checks"]:
        wanted = f", expected {check['expected']}" if check["status"] == "FAIL" else ""
        row(check["name"], f"{check['status']}: {check['found']}{wanted}")


def twice(settings: Settings) -> None:
    """Side by side: the runs compete for the device, and their bits must not care."""
    sets = [*_short(settings), "training.checkpoint_every_epochs=1"]
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / which for which in ("a", "b", "killed")]
        *runs, victim = [training(QUICKSTART, folder, *sets) for folder in folders]
        step = _kill_after_a_checkpoint(victim, folders[2])
        resumed = training(QUICKSTART, folders[2], *sets)
        digests = [_digests(run, folder) for run, folder in zip([*runs, resumed], folders, strict=True)]
    for number, case in ((1, "the same run twice"), (2, f"killed by SIGKILL after step {step}, and resumed")):
        row(case, compared(digests[0], digests[number]), digests=digests)


def compared(first: list[str], second: list[str]) -> str:
    """Checkpoints' digests of two runs, in words."""
    if not first:
        return "FAIL: the first run has no checkpoint"
    return f"equal digests of {len(first)} checkpoints" if second == first else "FAIL: DIFFERENT digests"


def _digests(run: Command, folder: Path) -> list[str]:
    return [event["digest"] for event in events(run, folder) if event["event"] == "checkpoint"]


def _kill_after_a_checkpoint(run: Command, folder: Path) -> int:
    """The step of the checkpoint that is there when the run is killed."""
    while run.process.poll() is None and not list((folder / "checkpoints").glob("step_*")):
        time.sleep(0.05)
    run.process.kill()
    run.process.communicate()
    return max(int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*"))


def memory(settings: Settings) -> None:
    """A run that cannot fit must be refused, and before its first step."""
    if settings.tiny:
        return row("memory", "not run: XLA limits a GPU's memory and not a CPU's")
    with tempfile.TemporaryDirectory() as name:
        arguments = ["train", "--config", QUICKSTART, "--run-dir", str(Path(name) / "run"), *_options(_short(settings))]
        run = Command("dsrun", *arguments, variables={"XLA_PYTHON_CLIENT_MEM_FRACTION": MEMORY_SHARE})
        said = "\n".join(run.process.communicate())
    return row(f"quickstart with {float(MEMORY_SHARE):.2%} of the GPU's memory", refusal(run.process.returncode, said))


def refusal(code: int, said: str) -> str:
    """What the preflight said, or how the run ended without it; XLA's own warnings of memory before it are left out."""
    found = re.search(r"out of memory (?:before the first step|while trying .* before the first step).*", said)
    words = found.group()[:600] if found else in_words(said)
    return f"{'' if found and code == 2 else 'FAIL: '}exit code {code}: {words}"


def _short(settings: Settings) -> list[str]:
    """Two epochs; two batch shapes, since each is compiled by every run."""
    sizes = TINY if settings.tiny else ["batches.buckets=2"]
    return [*sizes, "training.epochs=2", "training.evaluate_every_epochs=2"]


def prompts(settings: Settings) -> None:
    """A row for the whole step and one for each stage and part."""
    sets = [*PROMPTS, *(TINY_DEEP_SPEECH if settings.tiny else []), "data.cache=null", "batches.buckets=1"]
    for format in ("bfloat16",) if settings.tiny else ("bfloat16", "float32"):
        case = f"Deep Speech 2 on the prompts, {format}"
        if not settings.covers(case, 20):
            continue
        own = [*sets, *arithmetic(format, "native")]
        rounds = ["--batches", "1" if settings.tiny else "4", "--repeats", str(settings.rounds(5))]
        command = Command("dsrun", "bench", "step", "--config", DEEP_SPEECH, "--json", *rounds, *_options(own))
        try:
            found = json.loads(command.output())
        except Failed as reason:
            row(case, f"FAILED: {reason}")
            continue
        whole, memory = found["whole"], found["peak_memory_bytes"]
        row(
            case,
            f"{whole['utterances_per_second']:.1f} utterances/s, {1e3 * whole['seconds_a_step_median']:.1f} ms a step, "
            f"{whole['tflop_per_second']:.3g} TFLOP/s, MFU {whole['mfu']:.1%}, HFU {whole['hfu']:.1%}, padding "
            f"{whole['padding_share_of_frames']:.0%}, {memory / 1e9:.1f} GB ({found['peak_memory_is']}); {found['gru']}",
            whole=whole,
        )
        shares = ", ".join(f"{part['name']} {part['share_of_whole']:.0%}" for part in found["rows"])
        row(f"{case}: shares of the step", shares, rows=found["rows"])


def arithmetic(format: str, carrier: str) -> list[str]:
    """Settings of a network in this format; float32 is what the configs say."""
    if format == "float32":
        return []
    roles = [f"arithmetic.{role}.format={format}" for role in NARROW_ROLES]
    return [*roles, f"arithmetic.carrier={carrier}", LOSS_SCALE]


def rounding(settings: Settings) -> None:
    """Each contender's rate, and whether the bounds hold that are stated for two CPU cores."""
    # 100 million values: a GPU rounds 10 million in the time that a call takes.
    values, rounds = (10**5, 2) if settings.tiny else (10**8, 15)
    sizes = ["--values", str(values), "--rounds", str(rounds)]
    found = json.loads(Command("benchmarks.rounding", "--json", *sizes).output())
    for one in found["rows"]:
        rate, share = one["million_values_per_second"][1], one["rate_to_reference"][1]
        words = f"{rate:.0f} million a second, {share:.2f} of reduce_precision's"
        row(f"rounding {values:,} values: {one['name']}", words, **one)
    missed = [f"{claim['claim']} {claim['quartiles'][1]:.2f}" for claim in found["claims"] if not claim["held"]]
    held = len(found["claims"]) - len(missed)
    row("rounding: bounds", f"{held} of {len(found['claims'])} held; not: {missed}")


def accuracy(settings: Settings) -> None:
    """The table as it is printed."""
    sizes = ["--utterances", "2", "--frames", "40", "--labels", "8"] if settings.tiny else []
    for line in Command("benchmarks.ctc_accuracy", *sizes).output().strip().splitlines():
        row("CTC accuracy", line.strip())


def quickstart(settings: Settings) -> None:
    """Step time, rate and bytes by format and carrier."""
    for format, carrier in VARIANTS[:2] if settings.tiny else VARIANTS:
        case = f"quickstart, {format}{'' if format == 'float32' else f' {carrier}'}"
        sets = [*_short(settings), *arithmetic(format, carrier)]
        _short_run(settings, case, sets)
        if settings.covers(f"{case}: bytes", 5):
            row(f"{case}: bytes", footprint(sets))
    for mode in ("off", "autotuned"):  # beside the first row: what determinism costs
        _short_run(settings, f"quickstart, float32, determinism {mode}", [*_short(settings), f"determinism={mode}"])


def _short_run(settings: Settings, case: str, sets: list[str]) -> None:
    if not settings.covers(case, 15):
        return
    try:
        with tempfile.TemporaryDirectory() as name:
            row(case, speed(events(training(QUICKSTART, Path(name) / "run", *sets), Path(name) / "run")))
    except Failed as reason:
        row(case, f"FAILED: {reason}")


def speed(found: list[dict[str, Any]]) -> str:
    """Utterances a second and audio seconds a second, from the median step of the second half (everything is compiled by then)."""
    steps = [event for event in found if event["event"] == "step"]
    later = steps[len(steps) // 2 :]
    utterances = statistics.median(step["utterances"] / step["seconds"] for step in later)
    audio = statistics.median(step["audio_seconds"] / step["seconds"] for step in later)
    seconds = [step["seconds"] for step in later]
    waited = sum(step["data_wait_seconds"] for step in later) / sum(seconds)
    return (
        f"{utterances:.1f} utterances/s, {audio:.0f} s of audio/s, {statistics.median(seconds) * 1e3:.1f} ms a step "
        f"(median of {len(later)}), data wait {waited:.1%}"
    )


def footprint(sets: list[str]) -> str:
    """Megabytes of weights, gradients and state, by what the dry run says of the format's arrays."""
    command = Command("dsrun", "train", "--config", QUICKSTART, "--dry-run", "--json", *_options(sets))
    sizes = json.loads(command.output())["bytes"]
    each = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sizes.items())
    return f"{sum(sizes.values()) / 1e6:.1f} MB ({each})"


def main() -> None:
    """The part that the first argument names."""
    which, *arguments = sys.argv[1:]
    settings = part_settings(__doc__, arguments)
    parts = {"doctor": doctor, "twice": twice, "memory": memory, "prompts": prompts}
    parts |= {"rounding": rounding, "accuracy": accuracy, "quickstart": quickstart}
    try:
        parts[which](settings)
    except Failed as reason:
        row(which, f"FAILED: {reason}")


if __name__ == "__main__":
    main()
