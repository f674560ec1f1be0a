"""What `dsrun data show` does: one utterance as it is, and as an epoch's augmentation makes it.

Each augmentation is shown alone, with the draws of that epoch, then all together, which is what training gets. Spectrograms of all
panels are normalised with the plain clip's mean and deviation of each bin, so that a louder clip or a noise is seen as such.
"""

import difflib
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from dsrun import build
from dsrun.config import Config, load_config
from dsrun.errors import DataError, UsageError
from dsrun.speech import (
    Augmentation,
    FeatureSettings,
    ManifestIndex,
    Normalization,
    Utterance,
    augment_samples,
    augment_stages,
    estimate_normalization,
    open_manifest,
    read_utterance,
    spec_augment,
    utterance_rng,
)
from dsrun.study.plots import check_suffix

MOST_COMPARED = 100_000  # ids that a misspelt one is compared with
AUDIO_SUFFIXES = (".wav", ".flac")
TITLE_CHARACTERS = 120  # a line, at 12 inches
PLAIN = Augmentation()


@dataclass(frozen=True)
class Panel:
    """A name, what was drawn, the samples, and their normalised features as the network gets them."""

    name: str
    drawn: str
    samples: Float32[np.ndarray, " sample"]
    features: Float32[np.ndarray, "frame bin"]


def show_utterance(
    manifest: Path, id: str | None, *, config: Path, epoch: int, output: Path, audio: Path | None = None
) -> str:
    """Write a picture of an utterance, plain and augmented, and if asked what the epoch hears; returns the caption.

    Raises:
        UsageError: names that no picture or no audio can have.
        DataError: no such utterance, or its audio, a noise or an impulse response cannot be used.
    """
    check_suffix(output)
    if audio is not None and audio.suffix not in AUDIO_SUFFIXES:
        raise UsageError(f"{audio}: write a name that ends in {' or '.join(AUDIO_SUFFIXES)}.")
    resolved = load_config(config).config
    utterance = find_utterance(open_manifest(manifest), id)
    panels = make_panels(utterance, resolved, epoch=epoch)
    with saying_what_no_font_has(output):
        _draw(panels, f"{utterance.id}: {utterance.text}", build.build_features(resolved), output)
    if audio is not None:
        _write(panels[-1].samples, resolved.data.sample_rate, audio)
    frames, bins = panels[0].features.shape
    lines = [f"{output}: {utterance.id}, {frames} frames of {bins} bins, {utterance.text!r}"]
    lines += [f"epoch {epoch}, {panel.name}: {panel.drawn}" for panel in panels[1:]]
    if audio is not None:
        lines.append(f"{audio}: as epoch {epoch} hears it, {len(panels[-1].samples) / resolved.data.sample_rate:.2f} s")
    return "\n".join(lines)


@contextmanager
def saying_what_no_font_has(output: Path) -> Iterator[None]:
    """While something is drawn: one line on stderr instead of matplotlib's warning for each character, with its source line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    of_font = [warning for warning in caught if str(warning.message).startswith("Glyph ")]
    for other in caught:
        if other not in of_font:
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if of_font:
        print(f"{output}: the font has no signs for some of the text; they are drawn as boxes.", file=sys.stderr)


def find_utterance(index: ManifestIndex, id: str | None) -> Utterance:
    """The utterance of that id; the first if there is none. Raises DataError that names close ones."""
    found = next((number for number, other in enumerate(index.ids) if id is None or other == id), None)
    if found is not None:
        return index[found]
    ids = list(islice(index.ids, MOST_COMPARED))
    close = (
        difflib.get_close_matches(str(id), ids, n=5, cutoff=0.5)
        or [other for other in ids if str(id).lower() in other.lower()][:5]
    )
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"the first is {ids[0]!r}."
    raise DataError(f"{index.path}: no utterance {id!r}; {hint}")


def make_panels(utterance: Utterance, config: Config, *, epoch: int) -> list[Panel]:
    """Plain, each augmentation that does something in this epoch alone, and if there are several all together."""
    features, samples = build.build_features(config), read_utterance(utterance, build.build_audio(config))
    plain = features.compute(samples)
    normalization = estimate_normalization([plain])
    panels = [Panel("plain", "", samples, normalization.apply(plain))]
    augmentation = build.build_augmentation(config)
    if augmentation is None:
        return panels
    rate, seed = config.data.sample_rate, config.seed
    for one in _each(augmentation):
        stages = list(
            augment_stages(samples, augmentation=one, sample_rate=rate, seed=seed, epoch=epoch, id=utterance.id)
        )
        if stages:
            drawn = ", ".join(stage.drawn for stage in stages)
            heard = stages[-1].samples
            panels.append(Panel(stages[0].name, drawn, heard, normalization.apply(features.compute(heard))))
    if augmentation.time_masks or augmentation.frequency_masks:
        masked = _masked(panels[0].features, augmentation, config, epoch, utterance)
        hidden = int((masked == 0).all(axis=1).sum()), int((masked == 0).all(axis=0).sum())
        panels.append(Panel("masks", f"{hidden[0]} frames and {hidden[1]} bins hidden", samples, masked))
    if len(panels) > 2:
        panels.append(_together(utterance, samples, augmentation, config, epoch, features, normalization))
    return panels


def _each(augmentation: Augmentation) -> list[Augmentation]:
    """What happens to samples, one kind at a time; the draws are keyed by kind, so each is as it is among the others."""
    return [
        replace(PLAIN, speeds=augmentation.speeds),
        replace(PLAIN, reverb=augmentation.reverb),
        replace(PLAIN, noise=augmentation.noise),
        replace(PLAIN, gain_db=augmentation.gain_db),
    ]


def _together(
    utterance: Utterance,
    samples: Float32[np.ndarray, " sample"],
    augmentation: Augmentation,
    config: Config,
    epoch: int,
    features: FeatureSettings,
    normalization: Normalization,
) -> Panel:
    heard = augment_samples(
        samples,
        augmentation=augmentation,
        sample_rate=config.data.sample_rate,
        seed=config.seed,
        epoch=epoch,
        id=utterance.id,
    )
    seen = normalization.apply(features.compute(heard))
    return Panel("all", "what training gets", heard, _masked(seen, augmentation, config, epoch, utterance))


def _masked(
    features: Float32[np.ndarray, "frame bin"],
    augmentation: Augmentation,
    config: Config,
    epoch: int,
    utterance: Utterance,
) -> Float32[np.ndarray, "frame bin"]:
    return spec_augment(features, augmentation, rng=utterance_rng(config.seed, epoch, utterance.id, "masks"))


def _write(samples: Float32[np.ndarray, " sample"], sample_rate: int, path: Path) -> None:
    import soundfile

    try:
        soundfile.write(path, samples, sample_rate, subtype="PCM_16")
    except (soundfile.LibsndfileError, OSError) as error:
        raise UsageError(f"{path}: cannot be written ({error}).") from None


def _draw(panels: Sequence[Panel], title: str, features: FeatureSettings, output: Path) -> None:
    """A row a panel: waveform above, spectrogram below would be twice as high, so they stand side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 1.75 * len(panels) + 0.9), layout="constrained")
    # A price is no formula; `wrap=True` would take `$5 or $6` for one whatever parse_math says.
    figure.suptitle(textwrap.fill(title, TITLE_CHARACTERS), fontsize=11, parse_math=False)
    rate, hop = features.sample_rate, features.hop_ms / 1000
    longest = max(len(panel.samples) for panel in panels) / rate
    is_mel = features.kind == "log_mel"
    rows = figure.subplots(len(panels), 2, sharex=True, squeeze=False, width_ratios=(2, 3))
    for (wave, picture), panel in zip(rows, panels, strict=True):
        name = panel.name + (f": {panel.drawn}" if panel.drawn else "")
        wave.plot(np.arange(len(panel.samples)) / rate, panel.samples, lw=0.4, color="#0072b2", rasterized=True)
        wave.set_ylim(-1.05, 1.05)
        wave.set_ylabel("of full scale", fontsize=8)
        wave.set_title(name, fontsize=9, loc="left", parse_math=False)
        top = features.num_bins if is_mel else rate / 2000
        image = picture.imshow(
            panel.features.T,
            origin="lower",
            aspect="auto",
            extent=(0, len(panel.features) * hop, 0, top),
            cmap="magma",
            vmin=-3,
            vmax=3,
        )
        picture.set_xlim(0, longest)
        picture.set_ylabel("mel filter" if is_mel else "kHz", fontsize=8)
    for axes in rows[-1]:
        axes.set_xlabel("seconds")
    figure.colorbar(image, ax=list(rows[:, 1]), label="deviations from the plain clip's mean in each bin")
    figure.savefig(output, dpi=110, metadata={"Date": None} if output.suffix == ".svg" else None)
