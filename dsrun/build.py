"""From config to objects: the only place that reads config sections and calls constructors.

Rooms take plain arguments and do not know the config. A new setting touches three places: its field in `config.py`, a line here, and
the room that obeys it; a test asserts that every field is read.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from dsrun.arithmetic import Format, Policy, parse_format
from dsrun.arithmetic.formats import DEFAULT_RANDOM_BITS, FLOAT32, check_rounding
from dsrun.arithmetic.policy import Rounding, Rule
from dsrun.config import Accumulate, Config, Grid, Master, OptionalRole, Role, Update, UpdateRounding
from dsrun.ctc import CtcKernel, auto_kernel, describe_auto_ctc, describe_ctc
from dsrun.errors import DataError, UsageError
from dsrun.evaluation.clock import OutputClock
from dsrun.model import (
    Conv2dSettings,
    FrameStackSettings,
    ModelSettings,
    centre_frame,
    output_frames,
    parameter_table,
    refuse_what_cannot_be_recomputed,
    stored_places,
    time_stride,
)
from dsrun.record import configure_runtime, require_in_force
from dsrun.speech import (
    Alphabet,
    AnyDataset,
    AudioSettings,
    Augmentation,
    Bank,
    Batcher,
    Bucket,
    Dataset,
    FeatureCache,
    FeatureSettings,
    Noise,
    Normalization,
    Reverb,
    Utterance,
    Workers,
    encode_all,
    estimate_normalization,
    load_bank,
    load_dataset,
    make_normalizer,
    normalize_all,
    read_manifest,
)
from dsrun.training.feasibility import Infeasible, find_infeasible
from dsrun.training.loop import LoopSettings
from dsrun.training.loss_scale import NO_LOSS_SCALE, LossScale
from dsrun.training.optimizer import (
    Optimizer,
    adamw_direction,
    anneal_schedule,
    constant_schedule,
    sgd_direction,
    warmup_cosine_schedule,
)
from dsrun.training.preflight import EvaluationShape
from dsrun.training.state import Beginning
from dsrun.training.step import TrainStep

OnProgress = Callable[[int, int], None] | None


@dataclass(frozen=True)
class TrainingData:
    """Training and dev sets ready to batch, and what was left out on the way."""

    alphabet: Alphabet
    normalization: Normalization
    train: AnyDataset
    dev: AnyDataset
    dev_references: dict[str, str]
    infeasible: list[Infeasible]
    notes: list[str]
    test_shapes: tuple[EvaluationShape, ...]  # of test, which is not kept


def build_policy(config: Config) -> Policy:
    """Roundings by role and path. The schema has refused every combination that cannot be honoured."""
    roles = config.arithmetic
    storage, compute, accumulate, gradient = roles.storage, roles.compute, roles.accumulate, roles.gradient
    reduce, master, update, state, ctc = roles.reduce, roles.master, roles.update, roles.state, roles.ctc
    rules = []
    for rule in roles.rules:
        plain = {
            "storage": rule.storage,
            "compute": rule.compute,
            "accumulate": rule.accumulate,
            "gradient": rule.gradient,
            "reduce": rule.reduce,
            "state": rule.state,
        }
        found: dict[Any, Rounding] = {name: _rounding(role) for name, role in plain.items() if role is not None}
        if rule.master:
            found["master"] = Rounding(_format(rule.master))
        if rule.update:  # in the format of the master, which the path decides
            found["update"] = Rounding(FLOAT32, rule.update.rounding, _random_bits(rule.update))
        rules.append(Rule(rule.path, tuple(found.items()), rule.accumulate.chunk if rule.accumulate else None))
    return Policy(
        storage=_rounding(storage),
        compute=_rounding(compute),
        accumulate=_rounding(accumulate),
        chunk=accumulate.chunk,
        gradient=_rounding(gradient),
        reduce=_rounding(reduce),
        master=None if master.format == "none" else _format(master),
        update_mode=update.rounding,
        update_random_bits=_random_bits(update),
        compensation=update.compensation,
        state=_rounding(state),
        ctc=_rounding(ctc),
        carrier=roles.carrier,
        rules=tuple(rules),
    )


def check_rules(policy: Policy, settings: ModelSettings) -> None:
    """Refuse a rule that changes nothing in this network: a misspelt path would make another experiment than its name says.

    Raises:
        UsageError: names the rule, the role and paths that there are.
    """
    table = parameter_table(settings)
    parameters = [path for path, _, _ in table]
    matrices = [path for path, shape, _ in table if len(shape) > 1]
    places = stored_places(settings)
    of_role = {
        "storage": parameters + places,
        "gradient": parameters + places,
        "compute": matrices,
        "accumulate": matrices,
    }
    for number, rule in enumerate(policy.rules):
        for role, rounding in rule.roundings:
            paths = of_role.get(role, parameters)
            decided = [path for path in paths if policy.rule_for(role, path) is rule]
            if decided:
                if role in ("master", "update"):
                    _check_updates(policy, number, decided)
                continue
            matching = [path for path in paths if re.fullmatch(rule.pattern, path)]
            close = difflib.get_close_matches(rule.pattern, paths, n=1, cutoff=0.4)
            reason = (
                "an earlier rule takes all that it matches"
                if matching
                else f"it matches none of the {len(paths)} paths of this role"
                + (f"; did you mean {close[0]!r}" if close else "")
            )
            raise UsageError(
                f"arithmetic.rules.{number}: path {rule.pattern!r} changes no {role} to {rounding}: {reason}. Parameters: "
                "`dsrun train --dry-run`; places where values are stored: " + ", ".join(places)
            )


def check_residuals(policy: Policy, settings: ModelSettings) -> None:
    """Refuse gates that could not be restored as they were."""
    try:
        refuse_what_cannot_be_recomputed(settings, policy)
    except ValueError as error:
        raise UsageError(str(error)) from None


def build_ctc_kernel(config: Config, policy: Policy, *, devices: Sequence[jax.Device], labels: int) -> CtcKernel:
    """What walks CTC's lattice; `labels` is the most that a batch has room for.

    Raises:
        UsageError: a GPU's kernel without a GPU, or for an arithmetic that it does not have.
    """
    kernel, backend = config.kernels.ctc, devices[0].platform
    if kernel == "auto":
        return auto_kernel(policy, devices, labels=labels)
    if kernel == "mosaic" and backend != "gpu":
        raise UsageError(f"kernels.ctc is mosaic, which is for NVIDIA GPUs; JAX runs on {backend} here. Write scan.")
    if kernel == "mosaic" and not policy.ctc.is_exact:
        raise UsageError(
            f"kernels.ctc is mosaic, which is the float32 loss; arithmetic.ctc.format is {config.arithmetic.ctc.format}. Write scan."
        )
    return kernel


def describe_ctc_kernel(config: Config, step: TrainStep, *, labels: int) -> str:
    """Which code this step computes the loss with, in words, with a reason where that may surprise; `labels` as for `build_ctc_kernel`."""
    if config.kernels.ctc == "auto":
        return describe_auto_ctc(step.policy, step.ctc_kernel, step.reduction.devices, labels=labels)
    return describe_ctc(step.policy, step.ctc_kernel)


def _check_updates(policy: Policy, number: int, paths: list[str]) -> None:
    """Refuse an update rounding that the master's format at one of these paths cannot honour."""
    for path in paths:
        update = policy.rounding("update", path)
        try:
            check_rounding(update.format, update.mode)
            if update.is_exact and policy.rule_for("update", path):
                raise ValueError(
                    f"the copy that is updated is float32, which nothing rounds to: {update.mode} has no effect."
                )
        except ValueError as error:
            raise UsageError(f"arithmetic.rules.{number}: {path}: {error}") from None


def _format(grid: Role | OptionalRole | Accumulate | Master | Grid) -> Format:
    return parse_format(grid.format, overflow=grid.overflow, subnormals=grid.subnormals, granularity=grid.granularity)


def _rounding(role: Role | OptionalRole | Accumulate) -> Rounding:
    return Rounding(_format(role), role.rounding or "ties_to_even", _random_bits(role))


def _random_bits(role: Role | OptionalRole | Accumulate | Update | UpdateRounding) -> int:
    return role.random_bits or DEFAULT_RANDOM_BITS


def build_loss_scale(config: Config) -> LossScale:
    """None, fixed or dynamic."""
    scale = config.arithmetic.loss_scale
    if scale.kind == "static":
        return LossScale(initial=scale.scale)
    if scale.kind == "dynamic":
        return LossScale(
            "dynamic",
            initial=scale.initial,
            growth_interval=scale.growth_interval,
            minimum=scale.minimum,
            maximum=scale.maximum,
        )
    return NO_LOSS_SCALE


def build_features(config: Config) -> FeatureSettings:
    """Feature settings at the config's sample rate."""
    features = config.features
    return FeatureSettings(
        kind=features.kind,
        sample_rate=config.data.sample_rate,
        window_ms=features.window_ms,
        hop_ms=features.hop_ms,
        num_mels=features.num_mels or 0,
    )


def build_clock(features: FeatureSettings, settings: ModelSettings) -> OutputClock:
    """When the network's output frames are."""
    stride, first = time_stride(settings.front_end), centre_frame(settings.front_end)
    step = features.centre_seconds(first + stride) - features.centre_seconds(first)
    return OutputClock(first=features.centre_seconds(first), step=step)


def build_audio(config: Config) -> AudioSettings:
    """What recordings must be like."""
    data = config.data
    return AudioSettings(
        sample_rate=data.sample_rate, resample=data.resample, channel=data.channel, max_seconds=data.max_seconds
    )


def build_augmentation(config: Config) -> Augmentation | None:
    """Augmentation of training data, or none; noises and impulse responses are read.

    Raises:
        DataError: one of these cannot be used, or they are too many.
    """
    augment = config.augment
    if augment is None:
        return None
    noise, reverb = augment.noise, augment.reverb
    return Augmentation(
        speeds=tuple(augment.speeds),
        time_masks=augment.time_masks,
        max_time_frames=augment.max_time_frames,
        frequency_masks=augment.frequency_masks,
        max_frequency_bins=augment.max_frequency_bins,
        gain_db=augment.gain_db,
        noise=None
        if noise is None
        else Noise(_bank(config, noise.manifest), snr_db=noise.snr_db, probability=noise.probability),
        reverb=None if reverb is None else Reverb(_bank(config, reverb.manifest), probability=reverb.probability),
    )


def _bank(config: Config, manifest: str) -> Bank:
    return load_bank(read_manifest(manifest, transcripts="optional"), build_audio(config))


def build_model_settings(config: Config, *, num_classes: int) -> ModelSettings:
    """Shape of the network for an alphabet of so many classes."""
    model, front_end = config.model, config.model.front_end
    front: Conv2dSettings | FrameStackSettings
    if front_end.kind == "conv2d":
        front = Conv2dSettings(channels=front_end.channels)
    else:
        front = FrameStackSettings(stack=front_end.stack, stride=front_end.stride, hidden=front_end.hidden)
    return ModelSettings(
        num_bins=build_features(config).num_bins,
        num_classes=num_classes,
        front_end=front,
        hidden=model.hidden,
        layers=model.layers,
        direction=model.direction,
        normalization=model.normalization,
        dropout=model.dropout,
        relu_clip=model.relu_clip,
        residuals=model.residuals,
        lookahead=model.lookahead,
    )


def build_optimizer(config: Config, *, steps_per_epoch: int) -> Optimizer:
    """Direction and schedule; the schedule counts steps, so it must know how many an epoch has."""
    optimizer, schedule = config.optimizer, config.schedule
    if optimizer.kind == "sgd":
        direction = sgd_direction(
            momentum=optimizer.momentum, nesterov=optimizer.nesterov, weight_decay=optimizer.weight_decay
        )
    else:
        direction = adamw_direction(
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            epsilon=optimizer.epsilon,
            weight_decay=optimizer.weight_decay,
        )
    if schedule.kind == "anneal":
        rate = anneal_schedule(optimizer.learning_rate, factor=schedule.factor, steps_per_epoch=steps_per_epoch)
    elif schedule.kind == "warmup_cosine":
        rate = warmup_cosine_schedule(
            optimizer.learning_rate,
            warmup_steps=schedule.warmup_steps,
            total_steps=config.training.epochs * steps_per_epoch,
            final_fraction=schedule.final_fraction,
        )
    else:
        rate = constant_schedule(optimizer.learning_rate)
    return Optimizer(direction, rate)


def build_step(
    config: Config,
    settings: ModelSettings,
    policy: Policy,
    *,
    steps_per_epoch: int,
    labels: int,
    devices: Sequence[jax.Device],
    beginning: Beginning | None = None,
) -> TrainStep:
    """The compiled training step on these devices; `labels` is the most that a batch has room for, `beginning` another run's weights.

    Raises:
        UsageError: a kernel that is not for this device or arithmetic.
    """
    return TrainStep(
        settings,
        policy,
        build_optimizer(config, steps_per_epoch=steps_per_epoch),
        clip_norm=config.training.clip_norm,
        shards=config.batches.shards,
        seed=config.seed,
        statistics_momentum=config.model.statistics_momentum,
        loss_scale=build_loss_scale(config),
        ctc_kernel=build_ctc_kernel(config, policy, devices=devices, labels=labels),
        reduction=config.distribution.reduction,
        devices=devices,
        beginning=beginning,
    )


def build_loop_settings(config: Config) -> LoopSettings:
    """When to evaluate, keep and stop."""
    training = config.training
    return LoopSettings(
        epochs=training.epochs,
        evaluate_every_epochs=training.evaluate_every_epochs,
        early_stop_epochs=training.early_stop_epochs,
        checkpoint_every_epochs=training.checkpoint_every_epochs,
        checkpoint_every_steps=training.checkpoint_every_steps,
        log_every_steps=training.log_every_steps,
        watch_every_steps=training.watch_every_steps,
        hash_every_steps=training.hash_every_steps,
        digest_every_steps=training.digest_every_steps,
        max_skipped_steps=training.max_skipped_steps,
    )


def build_batcher(config: Config, dataset: AnyDataset, *, purpose: str) -> Batcher:
    """Batches of a dataset for "train" (shuffled, first epoch sorted if asked) or "evaluate" (in order of length)."""
    batches = config.batches
    is_training = purpose == "train"
    return Batcher(
        dataset,
        global_batch=batches.global_batch,
        buckets=batches.buckets,
        frame_multiple=batches.frame_multiple,
        seed=config.seed,
        sort_first_epoch=batches.sort_first_epoch and is_training,
        shuffle=is_training,
        workers=Workers(batches.workers),
        unreadable=config.data.unreadable if is_training else "error",
    )


def evaluation_shapes(batcher: Batcher, source: str) -> tuple[EvaluationShape, ...]:
    """The shapes of these batches, shortest first; `source` is what they are of."""
    ids, labels = batcher.dataset.ids, batcher.dataset.lengths.labels

    def shape(bucket: Bucket) -> EvaluationShape:
        longest_first = bucket.members[::-1]
        longest, wordiest = int(longest_first[0]), int(longest_first[labels[longest_first].argmax()])
        return EvaluationShape(bucket.frames, bucket.labels, source, ids[longest], ids[wordiest])

    return tuple(map(shape, batcher.buckets))


def build_alphabet(config: Config, train: list[Utterance]) -> Alphabet:
    """The alphabet file's, or the characters of the training text."""
    if config.data.alphabet is not None:
        return Alphabet.from_file(Path(config.data.alphabet), normalizer=config.data.normalizer)
    return Alphabet.from_texts((utterance.text for utterance in train), normalizer=config.data.normalizer)


def build_training_data(
    config: Config, *, normalization: Normalization | None = None, on_progress: OnProgress = None
) -> TrainingData:
    """Read, check and load what training needs.

    Args:
        normalization: of the features, where it is not to be estimated from the training data.

    Raises:
        DataError: anything wrong with manifests (test's too), text or audio, all problems of a kind at once; utterances that
            CTC cannot align where `data.infeasible` is `error`.
    """
    if config.data.loading == "streamed":
        from dsrun.streamed_data import build_streamed_data

        return build_streamed_data(config, normalization=normalization, on_progress=on_progress)
    from dsrun.streamed_data import require_memory

    notes: list[str] = []
    spoken = {split: _with_text(config, read_manifest(path), path, notes) for split, path in manifests(config).items()}
    require_memory(config, spoken)
    alphabet = build_alphabet(config, spoken["train"])
    train = _load(
        config,
        spoken["train"],
        alphabet,
        notes,
        augmentation=build_augmentation(config),
        on_progress=on_progress,
        unreadable=config.data.unreadable,
    )
    notes += [f"left out: {problem}" for problem in train.unreadable[:20]]
    if train.unreadable:
        notes.append(f"left out {len(train.unreadable)} utterances whose recording cannot be used")
    if normalization is None:
        normalization = estimate_normalization(map(train.plain_features, range(len(train.ids))))
    train = train.normalized_by(normalization)
    train, infeasible = _without_infeasible(config, train, alphabet, notes)
    dev = _load(config, spoken["dev"], alphabet, notes, normalization=normalization, on_progress=on_progress)
    references = {utterance.id: alphabet.normalize(utterance.text) for utterance in spoken["dev"]}
    shapes: tuple[EvaluationShape, ...] = ()
    if config.data.test is not None:  # loaded now, into the cache, so that a bad clip does not wait for the last epoch
        path, cache = Path(config.data.test), cache_of(config)
        test, _, _ = build_evaluation_data(config, path, alphabet, normalization, cache=cache, on_progress=on_progress)
        shapes = evaluation_shapes(build_batcher(config, test, purpose="evaluate"), "data.test")
    return TrainingData(alphabet, normalization, train, dev, references, infeasible, notes, shapes)


def build_evaluation_data(
    config: Config,
    manifest: Path,
    alphabet: Alphabet,
    normalization: Normalization,
    *,
    cache: FeatureCache,
    on_progress: OnProgress = None,
) -> tuple[AnyDataset, dict[str, str], Counter]:
    """A manifest as a dataset without augmentation, its references by id, and how often each character outside the alphabet
    occurs: they stay in the reference and count as errors; the labels, which only the loss reads, lack them."""
    if config.data.loading == "streamed":
        from dsrun.streamed_data import streamed_evaluation_data

        return streamed_evaluation_data(config, manifest, alphabet, normalization)

    def load(utterances: list[Utterance], labels: list[list[int]]) -> Dataset:
        return _dataset(config, utterances, labels, cache=cache, normalization=normalization, on_progress=on_progress)

    return read_for_evaluation(manifest, alphabet, load)


def read_for_evaluation(
    manifest: Path, alphabet: Alphabet, load: Callable[[list[Utterance], list[list[int]]], Dataset]
) -> tuple[Dataset, dict[str, str], Counter]:
    """As `build_evaluation_data`, with `load` for utterances and their labels to a dataset."""
    utterances = read_manifest(manifest)
    references = _normalized(utterances, alphabet.normalizer, manifest)
    encoded = encode_all({u.id: u.text for u in utterances}, alphabet, on_unknown="drop")
    return load(utterances, encoded.labels), references, encoded.dropped


def build_unlabelled_data(
    config: Config, utterances: list[Utterance], normalization: Normalization, *, cache: FeatureCache
) -> Dataset:
    """Utterances as a dataset without augmentation whose texts nobody reads: to look at what a network computes of them."""
    return _dataset(config, utterances, [[] for _ in utterances], cache=cache, normalization=normalization)


def cache_of(config: Config, *, access: Literal["read", "write"] = "write") -> FeatureCache:
    """Feature cache in the config's folder, or none."""
    return FeatureCache(None if config.data.cache is None else Path(config.data.cache), access=access)


def manifests(config: Config) -> dict[str, Path]:
    """Of the splits that training needs."""
    return {"train": Path(config.data.train), "dev": Path(config.data.dev)}


def _with_text(config: Config, utterances: list[Utterance], path: Path, notes: list[str]) -> list[Utterance]:
    texts = _normalized(utterances, config.data.normalizer, path)
    empty = [utterance for utterance in utterances if not texts[utterance.id]]
    if not empty or config.data.empty_transcript == "keep":
        return utterances
    names = ", ".join(repr(utterance.id) for utterance in empty[:5])
    if config.data.empty_transcript == "error":
        raise DataError(empty_text(path, len(empty), names))
    require_some_left(path, len(utterances), len(empty))
    notes.append(f"{path}: dropped {len(empty)} utterances with an empty transcript: {names}")
    return [utterance for utterance in utterances if texts[utterance.id]]


def empty_text(path: Path, count: int, names: str) -> str:
    """The error of transcripts without text."""
    return (
        f"{path}: {count} utterances have an empty transcript: {names}. Write what is said, or set data.empty_transcript to drop or "
        "keep."
    )


def require_some_left(path: Path, count: int, empty: int) -> None:
    """Refuse a manifest of `count` utterances of which those with an empty transcript are dropped, if that is all. Raises DataError."""
    if empty == count:
        raise DataError(
            f"{path}: no utterances are left: each of the {count} has an empty transcript, and data.empty_transcript is drop. Write "
            "what is said, or set it to keep."
        )


def _normalized(utterances: list[Utterance], normalizer: str, path: Path) -> dict[str, str]:
    """Texts as they are learnt and scored, by id."""
    try:
        return normalize_all({utterance.id: utterance.text for utterance in utterances}, make_normalizer(normalizer))
    except DataError as error:
        raise DataError(f"{path}: data.normalizer {normalizer}:\n{error}") from None


def _load(config: Config, utterances: list[Utterance], alphabet: Alphabet, notes: list[str], **options) -> Dataset:
    texts = {utterance.id: utterance.text for utterance in utterances}
    encoded = encode_all(texts, alphabet, on_unknown=config.data.unknown_characters)
    if encoded.dropped:
        counts = ", ".join(f"{character!r} {count} times" for character, count in encoded.dropped.most_common())
        notes.append(f"left characters out that are not in the alphabet: {counts}")
    return _dataset(config, utterances, encoded.labels, cache=cache_of(config), **options)


def _dataset(config: Config, utterances: list[Utterance], labels: list[list[int]], **options) -> Dataset:
    return load_dataset(
        utterances,
        labels,
        audio=build_audio(config),
        features=build_features(config),
        seed=config.seed,
        workers=Workers(config.batches.workers),
        **options,
    )


def _without_infeasible(
    config: Config, train: Dataset, alphabet: Alphabet, notes: list[str]
) -> tuple[Dataset, list[Infeasible]]:
    settings = build_model_settings(config, num_classes=alphabet.num_classes)
    infeasible = find_infeasible(
        train.ids,
        [train.fewest_frames(member) for member in range(len(train.ids))],
        train.labels,
        output_frames=lambda frames: output_frames(settings, frames),
    )
    if not infeasible:
        return train, []
    refuse_or_note_infeasible(config, infeasible, notes, of=len(train.ids))
    bad = {found.id for found in infeasible}
    return train.keep([id not in bad for id in train.ids]), infeasible


def refuse_or_note_infeasible(config: Config, infeasible: list[Infeasible], notes: list[str], *, of: int) -> None:
    """Raises DataError where the config does not allow to leave them out, or they are all `of` them."""
    if config.data.infeasible == "error":
        raise DataError("\n".join(str(found) for found in infeasible[:20]) + f"\n{len(infeasible)} in all.")
    if len(infeasible) == of:
        first = infeasible[0]
        raise DataError(
            f"{config.data.train}: no utterances are left: CTC can align none of the {of}. The first, {first.id!r}, needs {first.needed} "
            f"output frames and has {first.output_frames}. Lower the time stride (model.front_end), or see whether texts and recordings "
            "belong together (dsrun data check)."
        )
    notes.append(
        f"dropped {len(infeasible)} utterances that CTC cannot align: {', '.join(f.id for f in infeasible[:5])}"
    )


def start_runtime(config: Config, *, devices: int = 1, autotune: Mapping[str, Path] | None = None) -> None:
    """Pin what the config's determinism asks for, before JAX starts, and read it back."""
    shards, mode = config.batches.shards, config.determinism
    is_tuned = mode == "autotuned"
    configure_runtime(devices, pool_size=shards, determinism=mode, autotune=autotune if is_tuned else None)
    require_in_force(pool_size=shards, determinism=mode)
    if is_tuned:  # else JAX would keep choices beside its compiled programs too, and read others' there
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
