"""Streaming: a dataset that holds neither audio nor features, for corpora larger than memory.

An utterance is read, augmented and computed when its batch is made. What must be known before, the padded shapes above all, is planned
from the manifest's durations, so shapes are a function of manifest and config. A recording may differ from its duration by
`DURATION_TOLERANCE` (`audio.py` refuses more), and resampling rounds: the plan allows for both, so a clip always fits and is always
long enough for its labels. That costs up to ten frames of padding, so the same data trains to other bits streamed than in memory.

Of each utterance a dataset holds where its line is, its id, duration, and number of labels with those that CTC needs more; `lengths`
are made of these when a batcher plans. Text is read again, and turned into labels, with the audio.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32

from dsrun.errors import DataError
from dsrun.speech.alphabet import MOST_EXAMPLES, Alphabet, unknown_text
from dsrun.speech.audio import DURATION_TOLERANCE, AudioSettings, place_of, read_utterance, utterance_digest
from dsrun.speech.augment import Augmentation, utterance_rng
from dsrun.speech.dataset import PLAIN, Lengths, Unreadable, augmented_features, finish
from dsrun.speech.features import FeatureSettings, Normalization, estimate_normalization
from dsrun.speech.manifest import MOST_PROBLEMS, Utterance, list_problems
from dsrun.speech.manifest_index import ManifestIndex
from dsrun.speech.normalizers import make_normalizer
from dsrun.speech.permutation import shuffled
from dsrun.speech.workers import Workers

ROUNDING = 2  # samples by which resampling, twice at most, may round a clip up or down
TEXTS_AT_ONCE = 4096


@dataclass(frozen=True)
class TextFacts:
    """Of every text of a manifest: labels, labels that stand beside their like, whether it is empty; and dropped characters."""

    num_labels: Int32[np.ndarray, " utterance"]
    repeats: Int32[np.ndarray, " utterance"]
    is_empty: Bool[np.ndarray, " utterance"]
    dropped: Counter


@dataclass(frozen=True)
class StreamedDataset:
    """Some utterances of a manifest, `members[k]` its place there; the same in use as `Dataset`. Make one with `stream`."""

    index: ManifestIndex
    members: Int32[np.ndarray, " member"]
    num_labels: Int32[np.ndarray, " member"]
    repeats: Int32[np.ndarray, " member"]
    alphabet: Alphabet
    audio: AudioSettings
    settings: FeatureSettings
    normalization: Normalization | None
    augmentation: Augmentation | None
    seed: int
    recordings: tuple[tuple[str, str], ...] = ()

    @property
    def num_bins(self) -> int:
        """Features a frame."""
        return self.settings.num_bins

    @property
    def ids(self) -> "Chosen":
        """By member."""
        return Chosen(self.members, self.index.ids.__getitem__)

    @property
    def labels(self) -> "Chosen":
        """By member, each read when it is asked for."""
        return Chosen(self.members, self._labels)

    @cached_property
    def seconds(self) -> Float64[np.ndarray, " member"]:
        """By member, as the manifest has them."""
        return self.index.seconds if len(self.members) == len(self.index) else self.index.seconds[self.members]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that this and its index hold, lengths included."""
        own = self.members.nbytes + self.repeats.nbytes + self.lengths.nbytes  # of which num_labels is one
        return self.index.nbytes + own + (0 if self.seconds is self.index.seconds else self.seconds.nbytes)

    @cached_property
    def lengths(self) -> Lengths:
        """Of all utterances: planned frames, of which a clip has no more and, at the fastest speed, no fewer."""
        speeds = {*PLAIN, *(self.augmentation.speeds if self.augmentation else ())}
        rate, most, least = (
            self.settings.sample_rate,
            self.seconds + DURATION_TOLERANCE,
            self.seconds - DURATION_TOLERANCE,
        )
        return Lengths(
            plain=np.maximum(1, self._frames(np.rint(self.seconds * rate))),
            most=np.maximum(1, self._frames(np.ceil(most * rate / min(speeds)) + ROUNDING)),
            fewest=self._frames(np.floor(least * rate / max(speeds)) - ROUNDING),
            labels=self.num_labels,
        )

    def _frames(self, samples: Float64[np.ndarray, " member"]) -> Int32[np.ndarray, " member"]:
        window, hop = self.settings.window, self.settings.hop
        return np.where(samples < window, 0, 1 + (samples - window) // hop).astype(np.int32)

    def plain_features(self, member: int) -> Float32[np.ndarray, "frame bin"]:
        """Features at the utterance's own speed, neither normalised nor augmented.

        Raises:
            DataError: the recording cannot be used; with id and line.
        """
        return self._read(member, lambda utterance: self.settings.compute(read_utterance(utterance, self.audio)))

    def features(self, member: int, epoch: int) -> Float32[np.ndarray, "frame bin"]:
        """Normalised and, for training, augmented features of an utterance in an epoch.

        Raises:
            DataError: the recording cannot be used; with id and line.
        """
        key: dict[str, Any] = {"seed": self.seed, "epoch": epoch, "id": self.ids[member]}

        def compute(utterance: Utterance) -> np.ndarray:
            samples = read_utterance(utterance, self.audio)
            return augmented_features(samples, self.settings, self.augmentation, **key)

        return finish(self._read(member, compute), self.normalization, self.augmentation, **key)

    def _read(self, member: int, compute: Callable[[Utterance], Any]) -> Any:
        utterance = self.index[int(self.members[member])]
        try:
            return compute(utterance)
        except DataError as error:
            raise DataError(f"utterance {utterance.id!r} (line {utterance.line}): {error}") from None

    def _labels(self, place: int) -> list[int]:
        text = self.alphabet.normalize(self.index.row_again(place).fields["text"])
        return [self.alphabet.classes[character] for character in text if character in self.alphabet.classes]

    def normalized_by(self, normalization: Normalization) -> "StreamedDataset":
        """The same with this mean and deviation."""
        return replace(self, normalization=normalization)

    def keep(self, wanted: Sequence[bool] | Bool[np.ndarray, " member"]) -> "StreamedDataset":
        """The utterances marked True. Raises DataError if none is."""
        chosen = np.asarray(wanted, bool)
        if not chosen.any():
            raise DataError("no utterances are left.")
        columns = {name: getattr(self, name)[chosen] for name in ("members", "num_labels", "repeats")}
        return replace(self, **columns)

    def with_sample(
        self, count: int, *, workers: Workers, unreadable: Unreadable
    ) -> tuple["StreamedDataset", list[str]]:
        """Mean and deviation of the features, from `count` utterances drawn by the seed, and what was wrong with those that are left out.

        `recordings` are then those of the sample: their digests, and the mean, tell whether the data is the same later.
        """
        order = shuffled(len(self.members), utterance_rng(self.seed, 0, "", "normalization"))
        chosen = np.sort(order(np.arange(min(count, len(self.members))))).tolist()
        problems: list[str] = []
        recordings = []

        def read(member: int) -> tuple[tuple[str, str], np.ndarray] | DataError:
            try:
                return self.recording(member), self.plain_features(member)
            except DataError as error:
                return error

        def clips() -> Iterator[np.ndarray]:
            for found in workers.map(read, chosen):
                if isinstance(found, DataError):
                    problems.append(str(found))
                else:
                    recordings.append(found[0])
                    yield found[1]
            if problems and (unreadable == "error" or not recordings):
                raise DataError(list_problems(problems))

        normalization = estimate_normalization(clips())
        return replace(self, normalization=normalization, recordings=tuple(recordings)), problems

    def recording(self, member: int) -> tuple[str, str]:
        """Place and sha256 of a recording. Raises DataError."""
        return self._read(member, lambda found: (place_of(found.audio, found.member), utterance_digest(found)))


class Chosen(Sequence[Any]):
    """What a function says of each member's place in the manifest."""

    def __init__(self, members: np.ndarray, of_place: Callable[[int], Any]):
        self._members, self._of_place = members, of_place

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[member] for member in range(*index.indices(len(self)))]
        return self._of_place(int(self._members[index]))


def stream(
    index: ManifestIndex,
    texts: TextFacts,
    alphabet: Alphabet,
    *,
    audio: AudioSettings,
    features: FeatureSettings,
    normalization: Normalization | None = None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
) -> StreamedDataset:
    """All utterances of a manifest as a dataset; opens no audio.

    Raises:
        DataError: recordings that the manifest says are longer than allowed.
    """
    is_long = index.seconds > audio.max_seconds
    if is_long.any():
        problems = [
            f"{index.path}:{index.line(place)}: {index.seconds[place]:.1f} s, longer than data.max_seconds ({audio.max_seconds:g}). "
            "Cut it or raise the limit."
            for place in np.flatnonzero(is_long)[:MOST_PROBLEMS].tolist()
        ]
        raise DataError(list_problems(problems, more=int(is_long.sum()) - len(problems)))
    members = np.arange(len(index), dtype=np.int32)
    return StreamedDataset(
        index, members, texts.num_labels, texts.repeats, alphabet, audio, features, normalization, augmentation, seed
    )


def scan_texts(index: ManifestIndex, alphabet: Alphabet, *, on_unknown: str) -> TextFacts:
    """Look at every text once, some thousands at a time.

    Args:
        on_unknown: "error", or "drop" to leave characters out that the alphabet lacks.

    Raises:
        DataError: texts that the alphabet's normaliser refuses; with "error", unknown characters, how often and where.
    """
    scan = _TextScan(alphabet)
    rows = index.rows()
    while some := list(islice(rows, TEXTS_AT_ONCE)):
        scan.take([row.id for row in some], [row.fields["text"] for row in some])
    if scan.refused:
        raise DataError(list_problems(scan.refused, more=scan.more))
    if scan.counts and on_unknown == "error":
        raise DataError(unknown_text(scan.counts, scan.examples))
    return TextFacts(
        np.concatenate(scan.num_labels), np.concatenate(scan.repeats), np.concatenate(scan.is_empty), scan.counts
    )


class _TextScan:
    """What has been seen so far. Characters are counted as code points of many texts at once: a loop over them costs a minute."""

    def __init__(self, alphabet: Alphabet):
        self.normalize = make_normalizer(alphabet.normalizer)
        self.classes = np.zeros(0x110000, np.int32)
        for symbol, label in alphabet.classes.items():
            self.classes[ord(symbol)] = label
        self.num_labels: list[np.ndarray] = []
        self.repeats: list[np.ndarray] = []
        self.is_empty: list[np.ndarray] = []
        self.counts: Counter = Counter()
        self.examples: dict[str, list[str]] = {}
        self.refused: list[str] = []
        self.more = 0

    def take(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        normal = [self._normal(id, text) for id, text in zip(ids, texts, strict=True)]
        sizes = np.array([len(text) for text in normal])
        codes = np.frombuffer("".join(normal).encode("utf-32-le"), np.uint32)
        owners, labels = np.repeat(np.arange(len(normal)), sizes), self.classes[codes]
        is_known = labels > 0
        self._count_unknown(ids, codes[~is_known], owners[~is_known])
        owners, labels = owners[is_known], labels[is_known]
        is_repeat = (labels[1:] == labels[:-1]) & (owners[1:] == owners[:-1])
        for column, places in ((self.num_labels, owners), (self.repeats, owners[1:][is_repeat])):
            column.append(np.bincount(places, minlength=len(normal)).astype(np.int32))
        self.is_empty.append(sizes == 0)

    def _normal(self, id: str, text: str) -> str:
        try:
            return self.normalize(text)
        except DataError as error:
            if len(self.refused) < MOST_PROBLEMS:
                self.refused.append(f"utterance {id!r}: {error}")
            else:
                self.more += 1
            return ""

    def _count_unknown(self, ids: Sequence[str], codes: np.ndarray, owners: np.ndarray) -> None:
        for code, count in zip(*(column.tolist() for column in np.unique(codes, return_counts=True)), strict=True):
            character = chr(code)
            self.counts[character] += count
            found = self.examples.setdefault(character, [])
            if len(found) < MOST_EXAMPLES:
                where = np.unique(owners[codes == code])[: MOST_EXAMPLES - len(found)]
                found += [ids[place] for place in where.tolist()]
