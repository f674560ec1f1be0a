"""What is run: parts of steps, each a command whose stdout becomes FOLDER/<part>/<step>.json.

A step is done when its file is there, so a part that was stopped goes on where it was. Trainings go on by themselves: their run folders
are below FOLDER/runs, FOLDER/bits and FOLDER/speech_run. Minutes are of two quiet cores, measured or summed from docs/MEASUREMENTS.md; they
only serve to say how much time is left.

The size of everything is one of three:

    small   the prompts that are shipped, the small network; for two cores
    full    configs/deep_speech_2.yaml with the user's manifests; for GPUs
    tiny    seconds instead of minutes, a trial of the script: its numbers mean nothing
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scripts.talk.claims import MissingError

Size = Literal["small", "tiny", "full"]
REPOSITORY = Path(__file__).parents[2]
CONFIGS = Path("configs")  # commands run in the repository
TINY_NETWORK = (
    "model.front_end.hidden=16",
    "model.hidden=16",
    "model.layers=1",
    "batches.buckets=1",
)
TINY_TRAINING = (
    "training.epochs=1",
    "training.evaluate_every_epochs=1",
    "training.checkpoint_every_epochs=1",
    "training.watch_every_steps=1",
)
TINY_UTTERANCES = 32
SPLITS = ("train", "dev", "test")
SEEDS = (1, 2, 3)
TINY_VARIATIONS = ("float32", "float16_storage", "bfloat16_nearest", "bfloat16_stochastic", "ternary")
STEPS_A_RUN = {"small": 780, "tiny": 2, "full": 0}  # 0: not known before
MINUTES_A_RUN = {
    "small": 2.2,
    "tiny": 2.0,
    "full": 480.0,
}  # on one quiet core, on one GPU; of tiny `all_parts` takes a tenth


@dataclass(frozen=True)
class Settings:
    """What a folder was begun with; another size or other data need another folder."""

    folder: Path
    size: Size = "small"
    data: tuple[str, ...] = ()  # manifests of train, dev and test, for full
    jobs: int = 2
    alphabet: tuple[str, ...] = ()  # manifests of another alphabet, if the user has some

    @property
    def is_tiny(self) -> bool:
        return self.size == "tiny"

    def to_json(self) -> dict[str, Any]:
        """What decides the numbers of every part; `jobs` does not, and `alphabet` only adds one."""
        return {"size": self.size, "data": list(self.data)}


@dataclass(frozen=True)
class Step:
    """`python ARGUMENTS`; arguments that depend on earlier steps are a function. `codes`: of exits that are results."""

    name: str
    arguments: Sequence[str] | Callable[[], Sequence[str]]
    codes: tuple[int, ...] = (0,)

    def words(self) -> list[str]:
        """The arguments; raises MissingError where an earlier step must come first."""
        return list(self.arguments() if callable(self.arguments) else self.arguments)


@dataclass(frozen=True)
class Part:
    """Steps, how long they take in all on two quiet cores, and what they show.

    `progress`: the share that is done, where it can be seen. `goes_on`: the next step is run though one failed.
    """

    name: str
    minutes: float
    shows: str
    steps: tuple[Step, ...]
    progress: Callable[[], float] | None = None
    goes_on: bool = False


def all_parts(settings: Settings) -> dict[str, Part]:
    """By name, in the order in which they run: the short ones first, so that a stopped script has most of the table."""
    makers = (sums, ctc, bits, speed, sweep, learned, speech, alphabet, deploy)
    found = [maker(settings) for maker in makers if maker is not alphabet or settings.alphabet]
    scale = 0.1 if settings.is_tiny else 1.0
    return {part.name: replace(part, minutes=part.minutes * scale) for part in found}


def dsrun(*words: str) -> list[str]:
    """Arguments of Python for a dsrun command."""
    return ["-m", "dsrun", *words]


def program(name: str, *words: str) -> list[str]:
    """Arguments of Python for a program of this package."""
    return ["-m", f"scripts.talk.{name}", *words]


def sets(*settings: str) -> list[str]:
    """`--set` before each."""
    return [word for setting in settings for word in ("--set", setting)]


PROMPTS = sets(*(f"data.{name}=data/prompts_en/{name}.jsonl" for name in SPLITS))


def sums(settings: Settings) -> Part:
    """Numbers alone."""
    draws = ["--draws", "200" if settings.is_tiny else "10000"]
    accumulate = dsrun("study", "accumulate", "--json", *draws, *(["--uniforms", "100"] if settings.is_tiny else []))
    once = ["--format", "fixed_q16.0", "--rounding", "stochastic", "--times", "1", "--uniforms", "0", "--json"]
    many = ["--draws", "1000" if settings.is_tiny else "1000000"]
    steps = (
        Step("accumulate", accumulate),
        Step("once_0.01", dsrun("study", "accumulate", *once, *many, "--increment", "0.01")),
        Step("once_0.1", dsrun("study", "accumulate", *once, *many, "--increment", "0.1")),
        Step("cartoon", dsrun("study", "cartoon", "--json", *draws)),
    )
    return Part("sums", 0.7, "100 + 0.01, a hundred times; the cartoon; the talk's slips", steps, goes_on=True)


def base_config(settings: Settings) -> Path:
    """Of the network that everything but the quickstart is measured on."""
    return CONFIGS / ("deep_speech_2.yaml" if settings.size == "full" else "prompts_small_float32.yaml")


def data_sets(settings: Settings) -> list[str]:
    """`--set` of the user's manifests, if there are any."""
    return sets(*(f"data.{name}={Path(path).absolute()}" for name, path in zip(SPLITS, settings.data, strict=False)))


def tiny_sets(settings: Settings) -> list[str]:
    """`--set` of a network of seconds."""
    return sets(*TINY_NETWORK, *_tiny_data(settings.folder)) if settings.is_tiny else []


def ctc(settings: Settings) -> Part:
    """CTC before training."""
    words = ["--config", str(base_config(settings)), *data_sets(settings), *tiny_sets(settings)]
    limit = ["--utterances", "4" if settings.is_tiny else "64"]
    step = Step("untrained", program("ctc_on_corpus", *words, *limit))
    return Part(
        "ctc",
        0.7,
        "probabilities of the corpus' own utterances, and CTC's error against float64, before training",
        (step,),
    )


def bits(settings: Settings) -> Part:
    """Equal runs, a killed one, two devices, and a control."""
    words = [
        str(settings.folder / "bits"),
        *tiny_sets(settings),
        *(sets("training.epochs=20") if settings.is_tiny else []),
    ]
    return Part(
        "bits",
        3,
        "equal runs, one killed and resumed, one on two devices: the same bits?",
        (Step("runs", program("equal_runs", *words)),),
    )


def speed(settings: Settings) -> Part:
    """Shares of what this machine's products reach."""
    config = "deep_speech_2.yaml" if settings.size == "full" else "prompts_float32.yaml"
    words = ["--config", str(CONFIGS / config), *data_sets(settings), *tiny_sets(settings), "--json"]
    few = ["--batches", "1", "--repeats", "2"] if settings.is_tiny else []
    sizes = ["--sizes", "2x8x16"] if settings.is_tiny else []
    repeats = ["--repeats", "2"] if settings.is_tiny else []
    steps = (
        Step("gru", dsrun("bench", "gru", "--json", *sizes, *repeats, *_gru_formats(settings))),
        Step("step", dsrun("bench", "step", *words, *(few or ["--batches", "4", "--repeats", "5"]))),
        Step("scaling", dsrun("bench", "scaling", *words, *(few or ["--batches", "2", "--repeats", "5"])), (0, 1)),
        Step(
            "deep_speech_2",
            dsrun(
                "bench",
                "scaling",
                "--config",
                str(CONFIGS / "deep_speech_2.yaml"),
                *(data_sets(settings) or PROMPTS),
                "--batches",
                "1",
                "--repeats",
                "0",
                "--json",
            ),
        ),
    )
    return Part(
        "speed",
        5,
        "shares of what a large product reaches: GRU layers, a training step, several devices",
        steps,
        goes_on=True,
    )


def _gru_formats(settings: Settings) -> list[str]:
    """On a GPU narrower formats have units of their own; a CPU computes them in float32."""
    if settings.size != "full":
        return []
    return [
        "--preset",
        "deck",
        *(word for name in ("float32", "tensorfloat32", "bfloat16", "float16") for word in ("--format", name)),
    ]


def sweep_file(size: Size) -> Path:
    """Of the formats on speech."""
    return CONFIGS / "sweeps" / ("talk_full.yaml" if size == "full" else "talk.yaml")


def sweep_variations(size: Size) -> Sequence[str]:
    """Names of what it trains, each with every seed."""
    return TINY_VARIATIONS if size == "tiny" else variations(sweep_file(size))


def seeds_of(size: Size) -> tuple[int, ...]:
    """Two are the fewest that show a spread."""
    return SEEDS[:2] if size != "small" else SEEDS


def sweep(settings: Settings) -> Part:
    """Formats on speech, all of them with one seed first, so that a stopped sweep has something of each."""
    folder = settings.folder / "runs"
    words = ["sweep", str(sweep_file(settings.size)), "--folder", str(folder), "--json", *data_sets(settings)]
    words += ["--gpus", "all"] if settings.size == "full" else ["--jobs", str(settings.jobs)]
    if settings.is_tiny:
        words += tiny_sets(settings) + sets(*TINY_TRAINING)
    # 4: all are over, and some diverged, which is a result.
    steps = tuple(
        Step(f"seed_{seed}", dsrun(*words, *_only(settings, seed)), (0, 4)) for seed in seeds_of(settings.size)
    )
    runs = len(sweep_variations(settings.size)) * len(steps)
    minutes = MINUTES_A_RUN[settings.size] * runs / settings.jobs
    return Part(
        "sweep",
        minutes,
        f"formats on speech: {runs} trainings",
        steps,
        lambda: _share_of_steps(folder, runs, STEPS_A_RUN[settings.size]),
        goes_on=True,
    )


def _only(settings: Settings, seed: int) -> list[str]:
    names = TINY_VARIATIONS if settings.is_tiny else ("*",)
    return [word for name in names for word in ("--only", f"{name}-seed*{seed}")]


def variations(file: Path) -> list[str]:
    """Names of the entries of a sweep file's list; of each there is a run for every seed."""
    return [
        line.split("name:")[1].split(",")[0].strip(" }\n")
        for line in (REPOSITORY / file).read_text(encoding="utf-8").splitlines()
        if "- {name:" in line
    ]


def _share_of_steps(folder: Path, runs: int, steps_a_run: int) -> float:
    """Of all training steps of a sweep those that are recorded; by complete runs where nobody knows their length."""
    done = 0.0
    for run in folder.glob("*/"):
        if _state(run) == "done":
            done += 1
        elif steps_a_run and (run / "events.jsonl").is_file():
            text = (run / "events.jsonl").read_text(encoding="utf-8", errors="replace")
            done += min(text.count('"event": "step"') / steps_a_run, 1.0)
    return done / runs


def _state(run: Path) -> str | None:
    try:
        return json.loads((run / "status.json").read_text(encoding="utf-8")).get("state")
    except (OSError, ValueError):
        return None


def run_of(settings: Settings, variation: str, seed: int = 1) -> Path:
    """The run folder of a variation, trained to its end; its name is the variation's, and what else it has is its own affair.

    Raises:
        MissingError: there is none yet.
    """
    from scripts.talk.sweep_runs import by_name, variation_of

    candidates = [path for name, paths in by_name(settings.folder) if variation_of(name) == variation for path in paths]
    found = [run for run in candidates if f"seed: {seed}\n" in _text(run / "config.yaml") and _state(run) == "done"]
    if len(found) > 1:
        raise MissingError(f"{' and '.join(run.name for run in found)}: which is meant? Move the other one away.")
    if not found:
        raise MissingError(f"the run {variation} with seed {seed} is not done: part sweep")
    return found[0]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _tiny_data(folder: Path) -> list[str]:
    """Settings of the manifests that `write_tiny_data` writes."""
    own = folder.absolute() / "tiny"
    manifests = (f"data.{name}={own / name}.jsonl" for name in SPLITS)
    return [*manifests, f"data.alphabet={own / 'alphabet.txt'}", "data.unknown_characters=drop"]


def write_tiny_data(folder: Path) -> None:
    """Manifests of the shortest utterances of each split, and an alphabet that does not depend on them."""
    corpus, own = REPOSITORY / "data" / "prompts_en", folder / "tiny"
    own.mkdir(parents=True, exist_ok=True)
    for name in SPLITS:
        rows = [json.loads(line) for line in (corpus / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        rows = sorted(rows, key=lambda row: (row["duration"], row["id"]))[:TINY_UTTERANCES]
        lines = (json.dumps(row | {"audio_filepath": str(corpus / row["audio_filepath"])}) for row in rows)
        (own / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    letters = " 'abcdefghijklmnopqrstuvwxyz"
    (own / "alphabet.txt").write_text("".join(f"{letter}\n" for letter in letters), encoding="utf-8")


def learned(settings: Settings) -> Part:
    """CTC after training: the same as before it, with the weights of the float32 run."""
    limit = ["--utterances", "4" if settings.is_tiny else "64"]

    def arguments() -> list[str]:
        return program("ctc_on_corpus", "--run", str(run_of(settings, "float32")), *limit)

    return Part("learned", 0.6, "the same probabilities after training (needs sweep)", (Step("trained", arguments),))


def speech(settings: Settings) -> Part:
    """A recogniser that is worth listening to: the quickstart; with full the float32 run of the sweep."""
    run = settings.folder / "speech_run"  # FOLDER/speech has what the steps say

    def quickstart() -> Path:
        return run_of(settings, "float32") if settings.size == "full" else run

    def clip() -> str:
        from scripts.talk.clips import test_clip

        return str(test_clip(quickstart()))

    def train() -> list[str]:
        if _state(run) == "done":  # and killed before its report was kept: a complete run is not trained again
            return dsrun("eval", str(run), "--json")
        words = ["train", "--config", str(CONFIGS / "prompts_float32.yaml"), "--run-dir", str(run), "--json"]
        return dsrun(*words, *tiny_sets(settings), *(sets(*TINY_TRAINING) if settings.is_tiny else []))

    steps = (
        *(() if settings.size == "full" else (Step("train", train),)),
        Step("scores", lambda: dsrun("eval", str(quickstart()), "--json")),
        Step("transcript", lambda: dsrun("transcribe", str(quickstart()), clip(), "--json")),
    )
    return Part(
        "speech",
        0.1 if settings.size == "full" else 12,
        "end to end: the quickstart's network on test, and one clip as text",
        steps,
        None,
    )


def alphabet(settings: Settings) -> Part:
    """The quickstart's network on another alphabet; its characters are those of the training texts."""
    run = settings.folder / "alphabet_run"
    manifests = [f"data.{name}={Path(path).absolute()}" for name, path in zip(SPLITS, settings.alphabet, strict=True)]

    def train() -> list[str]:
        if _state(run) == "done":
            return dsrun("eval", str(run), "--json")
        words = ["train", "--config", str(CONFIGS / "prompts_float32.yaml"), "--run-dir", str(run), "--json"]
        network = sets(*TINY_NETWORK, *TINY_TRAINING) if settings.is_tiny else []
        return dsrun(*words, *sets(*manifests, "data.infeasible=drop"), *network)

    steps = (Step("train", train), Step("scores", lambda: dsrun("eval", str(run), "--json")))
    return Part(
        "alphabet", 12, "end to end in another alphabet: the quickstart's network on the manifests of --alphabet", steps
    )


def deploy(settings: Settings) -> Part:
    """The best float32 run with float16 and int8 weights."""
    run = lambda: str(run_of(settings, "float32"))  # noqa: E731
    steps = [Step("float32", lambda: dsrun("eval", run(), "--json"))]
    for format in ("float16", "int8"):
        steps.append(
            Step(
                f"export_{format}",
                lambda format=format: dsrun(
                    "export", run(), "--format", format, "--no-layers", "--overwrite", "--json"
                ),
            )
        )
        steps.append(Step(format, lambda format=format: dsrun("eval", run(), "--format", format, "--json")))
    return Part("deploy", 1, "the float32 run with float16 and with int8 weights, one scale a layer", tuple(steps))
