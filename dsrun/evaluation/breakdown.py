"""Where the errors are: by length of the utterance, by speaker, and which words and characters are confused.

Every row is a corpus of its own: all its errors divided by all its reference words (or characters), never a mean of rates.

By length: bins of equally many utterances, at most five and none of fewer than about ten; utterances of equal length share a bin.

By speaker: a row for each speaker, and an interval that draws speakers instead of utterances (cluster bootstrap: Field and Welsh
2007). Utterances of one speaker are hard or easy together, so they are not independent draws, and the interval over utterances is
too narrow for the question "how would it do on other people?". An utterance whose speaker is not known is drawn alone.

Confusions are the steps of the alignments (`edits`). Intervals of rows are from fewer draws than the corpus's own
(`ROW_DRAWS`): a percentile of 1,000 draws wanders by about 7% of the interval's half width.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dsrun.evaluation.edits import Edit, character_edits, word_edits
from dsrun.evaluation.error_rate import ErrorCount, bootstrap_interval, total_errors
from dsrun.evaluation.results import BOOTSTRAP_SEED, UtteranceResult

MOST_BINS, FEWEST_IN_BIN = 5, 10
ROW_DRAWS = 1_000
MOST_CONFUSIONS = 100  # of a kind in a report
RATES = (("cer", "characters"), ("wer", "words"))


def breakdown(utterances: Sequence[UtteranceResult]) -> dict[str, Any]:
    """All tables, ready for JSON: `by_length` and `by_speaker` (None where nothing is known), `confusions`."""
    return {
        "by_length": by_length(utterances),
        "by_speaker": by_speaker(utterances),
        "confusions": {
            "words": confusions(word_edits(u.reference, u.hypothesis) for u in utterances),
            "characters": confusions(character_edits(u.reference, u.hypothesis) for u in utterances),
        },
    }


def by_length(utterances: Sequence[UtteranceResult]) -> list[dict[str, Any]] | None:
    """A row for each bin of lengths, short ones first: `seconds` is [shortest, longest] in it.

    Utterances of unknown length make a last row whose `seconds` is None.
    """
    known = [u for u in utterances if u.seconds is not None]
    if not known:
        return None
    seconds = np.array([u.seconds for u in known])
    bins = min(max(len(known) // FEWEST_IN_BIN, 1), MOST_BINS)
    # Edges are lengths that occur, each the longest of its bin.
    edges = np.quantile(seconds, np.arange(1, bins + 1) / bins, method="inverted_cdf")
    places = np.searchsorted(np.unique(edges), seconds, side="left")
    rows = []
    for place in np.unique(places):
        members = [u for u, its_place in zip(known, places, strict=True) if its_place == place]
        inside = seconds[places == place]
        rows.append({"seconds": [float(inside.min()), float(inside.max())], **_rates(members)})
    unknown = [u for u in utterances if u.seconds is None]
    return rows + ([{"seconds": None, **_rates(unknown)}] if unknown else [])


def by_speaker(utterances: Sequence[UtteranceResult]) -> dict[str, Any] | None:
    """Speakers from worst to best by character error rate, how far apart they are, and intervals that draw speakers.

    Returns:
        None without speakers. `rows`: one a speaker; `spread`: minimum, quartiles and maximum of the speakers' rates;
        `cer_interval`, `wer_interval`: of the corpus over speakers, None if there are fewer than two.
        `without_speaker`: a row of the utterances whose speaker is not known, or None.
    """
    groups: dict[str, list[UtteranceResult]] = {}
    for utterance in utterances:
        if utterance.speaker is not None:
            groups.setdefault(utterance.speaker, []).append(utterance)
    if not groups:
        return None
    rows = [{"speaker": name, **_rates(members)} for name, members in groups.items()]
    rows.sort(key=lambda row: (-row["cer"], -row["wer"], row["speaker"]))
    unknown = [u for u in utterances if u.speaker is None]
    report: dict[str, Any] = {"speakers": len(groups), "spread": {}}
    for name, counts in RATES:
        clusters = counts_by_speaker(utterances, counts)
        report[f"{name}_interval"] = _interval(clusters, samples=10_000)
        found = np.quantile([row[name] for row in rows], [0, 0.25, 0.5, 0.75, 1], method="inverted_cdf")
        report["spread"][name] = dict(zip(("min", "q1", "median", "q3", "max"), found.tolist(), strict=True))
    return report | {"rows": rows, "without_speaker": _rates(unknown) if unknown else None}


def counts_by_speaker(utterances: Iterable[UtteranceResult], counts: str) -> list[ErrorCount]:
    """`words` or `characters` summed over each speaker's utterances; an utterance without a speaker counts alone."""
    groups: dict[tuple[str, str | None], list[ErrorCount]] = {}
    for utterance in utterances:
        key = ("speaker", utterance.speaker) if utterance.speaker is not None else ("utterance", utterance.id)
        groups.setdefault(key, []).append(getattr(utterance, counts))
    return [total_errors(group) for group in groups.values()]


def confusions(alignments: Iterable[Sequence[Edit]]) -> dict[str, Any]:
    """What was read as what, most frequent first, ties in code-point order.

    Returns:
        `substitutions`, `deletions`, `insertions`: for each the `total`, how many `distinct` ones, and the most frequent as
        `rows` of `said`, `read` and `count`; a row of a deletion or substitution has also `spoken`, how often the reference
        has that word or character at all.
    """
    spoken: Counter[str] = Counter()
    found: dict[str, Counter[tuple[str, str]]] = {k: Counter() for k in ("substitution", "deletion", "insertion")}
    for alignment in alignments:
        for edit in alignment:
            if edit.kind != "insertion":
                spoken[edit.reference] += 1
            if edit.kind != "match":
                found[edit.kind][edit.reference, edit.hypothesis] += 1
    return {f"{kind}s": _confused(counts, spoken) for kind, counts in found.items()}


def _confused(counts: Counter[tuple[str, str]], spoken: Counter[str]) -> dict[str, Any]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_CONFUSIONS]
    rows = [
        {"said": said or None, "read": read or None, "count": count, "spoken": spoken[said] if said else None}
        for (said, read), count in ranked
    ]
    return {"total": counts.total(), "distinct": len(counts), "rows": rows}


def _rates(members: Sequence[UtteranceResult]) -> dict[str, Any]:
    row: dict[str, Any] = {"utterances": len(members)}
    for name, counts in RATES:
        found = [getattr(member, counts) for member in members]
        row[name] = total_errors(found).rate
        row[f"{name}_interval"] = _interval(found, samples=ROW_DRAWS)
        row[counts] = total_errors(found).to_json()
    return row


def _interval(counts: Sequence[ErrorCount], *, samples: int) -> list[float] | None:
    """None for a single draw, which says nothing of how others would be."""
    return list(bootstrap_interval(counts, seed=BOOTSTRAP_SEED, samples=samples)) if len(counts) > 1 else None
