"""End to end: characters from audio, in English and in other alphabets; and deployed in fewer bits."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.talk.claims import AS_GOOD_RULE, Claim, Judged, MissingError, NotHereError, Verdict, as_good
from scripts.talk.evidence import Evidence
from scripts.talk.versus import interval

ENGLISH = " 'abcdefghijklmnopqrstuvwxyz"
RECOGNISES = 0.5  # character error rate: more characters right than wrong


def english(evidence: Evidence) -> Judged:
    """Test error rates, and one clip as text."""
    scores = evidence.report("speech", "scores")
    low, high = scores["cer_interval"]
    heard = _heard(evidence)
    return Judged(_recognises(low, high), f"{_rates(scores)}{heard}", {"cer": [scores["cer"], low, high]})


def _rates(scores: dict[str, Any]) -> str:
    """Both, as `dsrun eval --json` has them."""
    return f"test CER {interval(scores['cer'], *scores['cer_interval'])}, WER {interval(scores['wer'], *scores['wer_interval'])}"


def _recognises(low: float, high: float) -> Verdict:
    return "agrees" if high < RECOGNISES else "differs" if low > RECOGNISES else "cannot tell"


def _symbols(evidence: Evidence) -> str:
    """Letters of the test references that English does not have, the most frequent first."""
    path = next((evidence.folder / "alphabet_run" / "evaluation").glob("test*.jsonl"), None)
    texts = [json.loads(line)["reference"] for line in path.read_text(encoding="utf-8").splitlines()] if path else []
    counts = Counter(letter for text in texts for letter in text if letter not in ENGLISH)
    if not counts:
        return "no letter on test that English does not have"
    return f"{len(counts)} letters on test that English does not have: {' '.join(letter for letter, _ in counts.most_common(40))}"


def _heard(evidence: Evidence) -> str:
    """The clip of median length, if it was transcribed."""
    try:
        found = evidence.report("speech", "transcript")
    except MissingError:
        return ""
    rows = found["results"] or [{}]
    return f'; the clip of median length, {Path(str(rows[0].get("file"))).name}: "{rows[0].get("text", "")}"'


def other_alphabets(evidence: Evidence) -> Judged:
    """Data of another alphabet are not shipped; a user may have some."""
    if (evidence.folder / "alphabet").is_dir():
        scores = evidence.report("alphabet", "scores")
        low, high = scores["cer_interval"]
        return Judged(
            _recognises(low, high), f"{_rates(scores)}; {_symbols(evidence)}", {"cer": [scores["cer"], low, high]}
        )
    raise NotHereError(
        "only English prompts are shipped; scripts/build_prompts_corpus.py builds Russian, French and other ones from public recordings, "
        "and --alphabet TRAIN DEV TEST trains on them (docs/MEASUREMENTS.md, Other languages)"
    )


def deployed(format: str) -> Callable[[Evidence], Judged]:
    """A judge of a deployed run beside the float32 one."""

    def judge(evidence: Evidence) -> Judged:
        wide, narrow = evidence.report("deploy", "float32"), evidence.report("deploy", format)
        from dsrun.evaluation.comparison import compare
        from dsrun.evaluation.results import read_results

        found = compare(read_results(Path(narrow["details"])), read_results(Path(wide["details"])))["cer"]
        low, high = found["interval"]
        apart = interval(found["difference"], low, high, signed=True)
        words = f"test CER {narrow['cer']:.3f}, float32 {wide['cer']:.3f}: {apart}"
        figures = {"difference": [found["difference"], low, high], "cer": narrow["cer"], "float32_cer": wide["cer"]}
        return Judged(as_good(low, high), words, figures)

    return judge


ENGLISH_RULE = (
    f"agrees if the 95% interval of the test CER lies below {RECOGNISES:g}, so that more characters are right than wrong; differs if "
    "above; else cannot tell. About one trained network, which is what the claim needs: that there is one"
)
DEPLOY = "{script} --only sweep deploy"

CLAIMS = [
    Claim(
        "english",
        "end to end: characters from audio, English",
        "26",
        "{recogniser}; one seed, greedy, no language model; brackets are 95% over utterances, so they hold for this network",
        ENGLISH_RULE,
        "speech",
        "dsrun train --config configs/prompts_float32.yaml",
        english,
    ),
    Claim(
        "alphabets",
        "characters from audio in other alphabets",
        "26",
        "the network of configs/prompts_float32.yaml on the manifests of --alphabet, where they are given; one seed; brackets are 95% "
        "over utterances",
        ENGLISH_RULE,
        "speech",
        "{script} --only alphabet --alphabet TRAIN DEV TEST",
        other_alphabets,
    ),
    Claim(
        "deployed_float16",
        "deployment in float16 costs nothing",
        "42",
        "the float32 run with float16 weights, test, paired",
        AS_GOOD_RULE,
        "deploy",
        DEPLOY,
        deployed("float16"),
    ),
    Claim(
        "deployed_int8",
        "deployment in 8-bit fixed point with a scale for each layer and wide sums works",
        "42",
        "the float32 run with int8 weights, test, paired",
        AS_GOOD_RULE,
        "deploy",
        DEPLOY,
        deployed("int8"),
    ),
]
