"""How often do intervals of a difference hold? Simulated pairs of groups of runs, with chance of utterances and of seeds.

    python scripts/interval_coverage.py                 the table: methods by seeds and size of the seeds' effect (minutes)
    python scripts/interval_coverage.py --other-seeds   coverage of the method in use for groups without common seeds
    python scripts/interval_coverage.py --pairs 100     pairs of groups written as run folders, through `dsrun compare --json`
    python scripts/interval_coverage.py --calibrate     what the simulation looks like beside results in run folders

What is drawn. A test set: as many utterances as the corpus has (dev 61, test 56), their lengths drawn from the corpus's, each with a
difficulty (normal on the logit scale). Two groups of S networks: an error falls on all networks alike with probability SHARED (what is
hard is hard for all), else each network has its own. Two networks of one seed differ in their rate by a normal seed effect of standard
deviation `effect` (in CER), and each format finds some utterances harder than the other does (INTERACTION). Neither is on any group's
side: the true difference is zero, and an interval should cover zero 95 times in 100.

Sizes are those of real results (`--calibrate` prints them beside each other): the rate, its standard error over utterances, the
correlation of two networks' errors, the standard error of their difference. Seed effects of paired differences in
docs/MEASUREMENTS.md (three seeds of the small network) have standard deviations of 0.001 to 0.006 for formats as good as float32, 0.009
for bfloat16 without a master, 0.010 for CTC in float16, 0.017 and 0.029 for binary and ternary weights.

Methods: percentile, studentised and BCa bootstrap over utterances (seeds summed); the pigeonhole bootstrap (Owen 2007), which draws
utterances and seeds crosswise; two-way cluster-robust variance (Cameron, Gelbach and Miller 2011), t with min(U, S) - 1 degrees of
freedom; V_u + V_s with Satterthwaite's degrees of freedom; the wider of two t intervals; and V_u + V_s with Cochran and Cox's weighted t,
which `dsrun compare` uses (`dsrun.study.statistics.compare_errors`, called here as it is).
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit
from scipy.stats import beta

from dsrun.study.statistics import compare_errors

ROOT = Path(__file__).parent.parent
MU, DIFFICULTY, SHARED = -1.95, 0.9, 0.75
DRAWS = 1000  # of a bootstrap
SEEDS = (1, 2, 3, 5)
EFFECTS = (0.0, 0.005, 0.01, 0.03)
INTERACTION = 0.3
METHODS = (
    "percentile",
    "studentised",
    "bca",
    "pigeonhole",
    "two-way",
    "satterthwaite",
    "wider t",
    "cochran-cox",
    "other seeds",
)


@dataclass(frozen=True)
class Pair:
    """Errors [seed, utterance] of two groups on one test set, and the references' lengths."""

    ours: np.ndarray
    theirs: np.ndarray
    lengths: np.ndarray


def corpus_lengths(split: str) -> np.ndarray:
    """Characters of each transcript of the shipped corpus."""
    lines = (ROOT / "data" / "prompts_en" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return np.array([len(json.loads(line)["text"]) for line in lines])


def draw_pair(
    generator: np.random.Generator, corpus: np.ndarray, *, seeds: int, effect: float, interaction: float = INTERACTION,
    planted: float = 0.0, difficulty: float = DIFFICULTY, shared: float = SHARED, mu: float = MU,
) -> Pair:  # fmt: skip
    """One pair of groups; `planted` is added to the first group's true rate."""
    lengths = generator.choice(corpus, len(corpus))
    share_wrong = 1 / (1 + np.exp(-(mu + difficulty * generator.standard_normal(len(lengths)))))
    common = generator.binomial(lengths, share_wrong * shared)
    level = share_wrong.mean()
    sides = []
    for offset in (planted, 0.0):
        own = np.exp(interaction * generator.standard_normal(len(lengths)) - interaction**2 / 2)
        shift = (offset + effect / np.sqrt(2) * generator.standard_normal((seeds, 1))) / level
        intensity = lengths * share_wrong * ((1 - shared) * own + shift)
        more = generator.poisson(np.maximum(intensity, 0))
        fewer = generator.poisson(np.maximum(-intensity, 0))
        sides.append(np.maximum(common + more - fewer, 0))
    return Pair(sides[0], sides[1], lengths)


def intervals(generator: np.random.Generator, pair: Pair) -> dict[str, tuple[float, float]]:
    """95% intervals of the difference by each method that there is with so many seeds."""
    errors, lengths = pair.ours - pair.theirs, pair.lengths
    seeds, count, total = *errors.shape, lengths.sum()
    value = errors.sum() / (seeds * total)
    mean = errors.mean(axis=0)
    residuals = (mean - value * lengths) / total
    v_u = (residuals**2).sum() * count / (count - 1)
    drawn = generator.multinomial(count, np.full(count, 1 / count), DRAWS)
    drawn_total = drawn @ lengths
    rates = (drawn @ mean) / drawn_total
    found = {"percentile": _percentiles(rates)}
    found["studentised"] = _studentised(drawn, drawn_total, rates, mean, lengths, value, v_u)
    found["bca"] = _bca(rates, mean, lengths, value)
    used = compare_errors(pair.ours, pair.theirs, lengths, seeds=range(seeds), is_paired=True)
    found["cochran-cox"] = (used.low, used.high)
    if seeds == 1:
        return found
    drawn_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS)
    found["pigeonhole"] = _percentiles(((drawn @ errors.T) * drawn_seeds).sum(axis=1) / (seeds * drawn_total))
    v_s = (errors.sum(axis=1) / total).var(ddof=1) / seeds
    v_cell = (((errors - value * lengths) / (seeds * total)) ** 2).sum()
    few, many = stdtrit(seeds - 1, 0.975), stdtrit(count - 1, 0.975)
    found["two-way"] = _around(value, stdtrit(min(count, seeds) - 1, 0.975) * max(v_u + v_s - v_cell, v_u, v_s) ** 0.5)
    freedom = (v_u + v_s) ** 2 / (v_u**2 / (count - 1) + v_s**2 / (seeds - 1)) if v_u + v_s else count - 1
    found["satterthwaite"] = _around(value, stdtrit(freedom, 0.975) * (v_u + v_s) ** 0.5)
    found["wider t"] = _around(value, max(many * v_u**0.5, few * v_s**0.5))
    return found


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return low, high


def _around(value: float, half: float) -> tuple[float, float]:
    return value - half, value + half


def _studentised(
    drawn: np.ndarray, drawn_total: np.ndarray, rates: np.ndarray, mean: np.ndarray, lengths: np.ndarray, value: float, v_u: float
) -> tuple[float, float]:  # fmt: skip
    squares = drawn @ mean**2 - 2 * rates * (drawn @ (mean * lengths)) + rates**2 * (drawn @ lengths**2.0)
    errors = np.sqrt(np.maximum(squares, 0) * len(lengths) / (len(lengths) - 1)) / drawn_total
    ratios = (rates - value)[errors > 0] / errors[errors > 0]
    if len(ratios) < DRAWS / 2:
        return -np.inf, np.inf
    low, high = _percentiles(ratios)
    return value - high * v_u**0.5, value - low * v_u**0.5


def _bca(rates: np.ndarray, mean: np.ndarray, lengths: np.ndarray, value: float) -> tuple[float, float]:
    below = ((rates < value).sum() + (rates == value).sum() / 2) / DRAWS
    bias = ndtri(np.clip(below, 1 / DRAWS, 1 - 1 / DRAWS))
    left_out = (mean.sum() - mean) / (lengths.sum() - lengths)
    distances = left_out.mean() - left_out
    scale = (distances**2).sum() ** 1.5
    acceleration = (distances**3).sum() / (6 * scale) if scale else 0.0
    ends = [ndtr(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in ndtri([0.025, 0.975])]
    low, high = np.quantile(rates, np.clip(ends, 0, 1))
    return low, high


def coverage(seed: int, simulations: int, seeds: int, effect: float) -> dict[str, tuple[float, float]]:
    """Of each method: share of intervals that cover zero, and the median half width."""
    generator = np.random.Generator(np.random.Philox([seed, seeds, round(1e4 * effect)]))
    corpora = [corpus_lengths(split) for split in ("dev", "test")]
    ends: dict[str, list[tuple[float, float]]] = {}
    for number in range(simulations):
        pair = draw_pair(generator, corpora[number % 2], seeds=seeds, effect=effect)
        for method, interval in intervals(generator, pair).items():
            ends.setdefault(method, []).append(interval)
    found = {}
    for method, drawn in ends.items():
        low, high = np.array(drawn).T
        found[method] = (float(((low <= 0) & (high >= 0)).mean()), float(np.median(high - low) / 2))
    return found


def print_table(seed: int, simulations: int) -> None:
    """Coverage of zero in per cent and, behind it, the median half width in CER x 1000."""
    error = 100 * (0.95 * 0.05 / simulations) ** 0.5
    print(f"{simulations} pairs a row, seed {seed}; a coverage of 95% has a standard error of {error:.1f}%")
    print("| seeds | effect | " + " | ".join(METHODS) + " |")
    print("|---:|---:|" + "---:|" * len(METHODS))
    for seeds in SEEDS:
        for effect in EFFECTS:
            found = coverage(seed, simulations, seeds, effect)
            cells = [f"{100 * found[m][0]:.1f} ({1000 * found[m][1]:.0f})" if m in found else "" for m in METHODS]
            print(f"| {seeds} | {effect:.3f} | " + " | ".join(cells) + " |", flush=True)


def print_other_seeds(seed: int, simulations: int) -> None:
    """Coverage of zero in per cent where groups are not paired by seed."""
    print(f"{simulations} pairs a figure, seed {seed}; seeds on each side, then effects {', '.join(map(str, EFFECTS))}")
    corpora = [corpus_lengths(split) for split in ("test", "dev")]
    for seeds in SEEDS[1:]:
        shares = []
        for effect in EFFECTS:
            generator = np.random.Generator(np.random.Philox([seed, seeds, round(1e4 * effect)]))
            pairs = (draw_pair(generator, corpora[n % 2], seeds=seeds, effect=effect) for n in range(simulations))
            found = [
                compare_errors(pair.ours, pair.theirs, pair.lengths, seeds=range(seeds), is_paired=False)
                for pair in pairs
            ]
            shares.append(sum(not one.is_seen for one in found) / simulations)
        print(f"{seeds}: {', '.join(f'{share:.1%}' for share in shares)}", flush=True)


def texts_of(errors: np.ndarray, lengths: np.ndarray) -> list[tuple[str, str, str]]:
    """Utterances (id, reference, hypothesis) with so many character errors: substitutions, then insertions."""
    rows = []
    for number, (count, length) in enumerate(zip(errors.tolist(), lengths.tolist(), strict=True)):
        said = ("abcde fghij klmno pqrst uvwxy " * (length // 30 + 1))[:length].strip().ljust(length, "z")
        rows.append((f"u{number:03}", said, "#" * count + said[count:]))
    return rows


def write_pair(folder: Path, pair: Pair) -> None:
    """Two groups of finished runs, float32 and float16, scored on test."""
    sys.path.insert(0, str(ROOT))
    from tests.study.run_folders import write_run_folder

    for name, errors in (("float32", pair.theirs), ("float16", pair.ours)):
        for seed, row in enumerate(errors):
            config = {"arithmetic.storage.format": name, "seed": seed}
            place = folder / f"{'ab'[name == 'float16']}-{name}-seed={seed}"
            write_run_folder(place, config=config, steps=2, dev_cer=(0.5,), texts={"test": texts_of(row, pair.lengths)})


def compared(pair: Pair) -> dict[str, object]:
    """What `dsrun compare --json` says of the second group's CER on test."""
    from typer.testing import CliRunner

    from dsrun.cli import app

    with tempfile.TemporaryDirectory() as folder:
        write_pair(Path(folder), pair)
        result = CliRunner().invoke(app, ["compare", folder, "--split", "test", "--json"], catch_exceptions=False)
    return json.loads(result.stdout)["groups"][1]["differences"]["test"]["cer"]


def verdicts(seed: int, pairs: int, *, seeds: int, effect: float, planted: float) -> Iterator[str]:
    """The words of each pair."""
    generator = np.random.Generator(np.random.Philox([seed, seeds, 1 + round(1e4 * planted)]))
    corpora = [corpus_lengths(split) for split in ("dev", "test")]
    for number in range(pairs):
        yield str(
            compared(draw_pair(generator, corpora[number % 2], seeds=seeds, effect=effect, planted=planted))["words"]
        )


def print_pairs(seed: int, pairs: int, planted: float, effect: float) -> None:
    """Counts of verdicts with the 95% interval of the rate that they show (Clopper and Pearson)."""
    print(f"{pairs} pairs through run folders and dsrun compare --json, seed effect {effect}, seed {seed}")
    for seeds in SEEDS:
        for true in (0.0, planted):
            words = list(verdicts(seed, pairs, seeds=seeds, effect=effect, planted=true))
            is_right = [word == ("worse" if true else "no difference seen") for word in words]
            right = sum(is_right)
            low = beta.ppf(0.025, right, pairs - right + 1) if right else 0.0
            high = beta.ppf(0.975, right + 1, pairs - right) if right < pairs else 1.0
            what = f"difference of {true:+.3f} found" if true else "no difference: zero inside the interval"
            print(f"seeds {seeds}: {what} {right} of {pairs} times [{low:.0%}, {high:.0%}]", flush=True)


def print_calibration(seed: int, folders: list[Path]) -> None:
    """Figures of simulated single networks beside those of real results."""
    names = "rate, its standard error, share of utterances without errors, correlation, error of the difference, utterances that differ"
    print(names)
    generator = np.random.Generator(np.random.Philox(seed))
    for split in ("dev", "test"):
        corpus = corpus_lengths(split)
        drawn = [_figures(draw_pair(generator, corpus, seeds=1, effect=0.0)) for _ in range(400)]
        print(f"{split} simulated  " + "  ".join(f"{value:.4f}" for value in np.mean(drawn, axis=0)))
        read = [(folder.name, folder / "evaluation" / f"{split}.jsonl") for folder in folders]
        counts = [(name, _errors_in(path)) for name, path in read if path.is_file()]
        for (name, (errors, lengths)), (other, (others, _)) in itertools.pairwise(counts):
            figures = _figures(Pair(errors[None], others[None], lengths))
            print(f"{split} {name}, {other}  " + "  ".join(f"{value:.4f}" for value in figures))


def _figures(pair: Pair) -> tuple[float, ...]:
    ours, theirs, lengths = pair.ours[0], pair.theirs[0], pair.lengths
    used = compare_errors(pair.ours, pair.theirs, lengths, seeds=[1], is_paired=True)
    alone = compare_errors(pair.ours, 0 * pair.theirs, lengths, seeds=[1], is_paired=True)
    quantile = stdtrit(len(lengths) - 1, 0.975)
    errors = [(d.utterances_high - d.utterances_low) / 2 / quantile for d in (alone, used)]
    correlation = np.corrcoef(ours / lengths, theirs / lengths)[0, 1]
    return ours.sum() / lengths.sum(), errors[0], (ours == 0).mean(), correlation, errors[1], (ours != theirs).sum()


def _errors_in(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = [json.loads(line)["characters"] for line in path.read_text(encoding="utf-8").splitlines()]
    return np.array([row["errors"] for row in rows]), np.array([row["reference_length"] for row in rows])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000, help="of a row of the table")
    parser.add_argument("--pairs", type=int, help="pairs through run folders, instead of the table")
    parser.add_argument("--planted", type=float, default=0.04, help="true difference of CER that shall be found")
    parser.add_argument("--effect", type=float, default=0.01, help="of the seeds, with --pairs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calibrate", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--other-seeds", action="store_true")
    options = parser.parse_args()
    if options.calibrate is not None:
        print_calibration(options.seed, options.calibrate)
    elif options.other_seeds:
        print_other_seeds(options.seed, options.simulations)
    elif options.pairs:
        print_pairs(options.seed, options.pairs, options.planted, options.effect)
    else:
        print_table(options.seed, options.simulations)


if __name__ == "__main__":
    main()
