"""Speech: files to arrays. NumPy only, no JAX.

Manifests list utterances; audio becomes samples, samples become features, text becomes class ids; batches are a pure function of
(seed, epoch, index). Anything wrong with a file is a `DataError` that names it. The room is not called `data`: the top-level
`data/` is the only thing of that name.
"""

from dsrun.speech.acoustics import Bank, Noise, Reverb, add_noise, change_gain, load_bank, reverberate
from dsrun.speech.alphabet import Alphabet, Encoded, encode_all, unknown_text
from dsrun.speech.audio import (
    AudioSettings,
    file_digest,
    place_of,
    read_audio,
    read_header,
    read_utterance,
    utterance_digest,
)
from dsrun.speech.augment import (
    Augmentation,
    Stage,
    augment_samples,
    augment_stages,
    change_speed,
    chosen_speed,
    spec_augment,
    utterance_rng,
)
from dsrun.speech.batching import AnyDataset, Batch, Batcher, Bucket
from dsrun.speech.check import CheckReport, Problems, TextPolicy, check_manifest
from dsrun.speech.dataset import Dataset, Lengths, SampledDataset, load_dataset
from dsrun.speech.examine import Depth
from dsrun.speech.features import (
    FeatureCache,
    FeatureSettings,
    Normalization,
    estimate_normalization,
    log_mel,
    log_spectrogram,
)
from dsrun.speech.histogram import Histogram
from dsrun.speech.leakage import Split, count_recordings_in, find_leakage
from dsrun.speech.manifest import TarMember, Utterance, list_problems, read_manifest, write_manifest
from dsrun.speech.manifest_index import ManifestIndex, open_manifest
from dsrun.speech.normalizers import NORMALIZERS, make_normalizer, normalize_all
from dsrun.speech.padding import Padding, padding_by_buckets
from dsrun.speech.streaming import StreamedDataset, TextFacts, scan_texts, stream
from dsrun.speech.tar_shards import Member, list_members
from dsrun.speech.workers import Workers, prefetch

__all__ = [
    "NORMALIZERS",
    "Alphabet",
    "AnyDataset",
    "AudioSettings",
    "Augmentation",
    "Bank",
    "Batch",
    "Batcher",
    "Bucket",
    "CheckReport",
    "Dataset",
    "Depth",
    "Encoded",
    "FeatureCache",
    "FeatureSettings",
    "Histogram",
    "Lengths",
    "ManifestIndex",
    "Member",
    "Noise",
    "Normalization",
    "Padding",
    "Problems",
    "Reverb",
    "SampledDataset",
    "Split",
    "Stage",
    "StreamedDataset",
    "TarMember",
    "TextFacts",
    "TextPolicy",
    "Utterance",
    "Workers",
    "add_noise",
    "augment_samples",
    "augment_stages",
    "change_gain",
    "change_speed",
    "check_manifest",
    "chosen_speed",
    "count_recordings_in",
    "encode_all",
    "estimate_normalization",
    "file_digest",
    "find_leakage",
    "list_members",
    "list_problems",
    "load_bank",
    "load_dataset",
    "log_mel",
    "log_spectrogram",
    "make_normalizer",
    "normalize_all",
    "open_manifest",
    "padding_by_buckets",
    "place_of",
    "prefetch",
    "read_audio",
    "read_header",
    "read_manifest",
    "read_utterance",
    "reverberate",
    "scan_texts",
    "spec_augment",
    "stream",
    "unknown_text",
    "utterance_digest",
    "utterance_rng",
    "write_manifest",
]
