"""Data sets, samplers, transforms and tokenizers; every batch is a function of seeds and keys."""

from common.data.augment_text import Eda, Repetition, SpanMask, WordDropout, synonyms_from_synsets
from common.data.captions import (
    CaptionedImages,
    CaptionFiles,
    CaptionLists,
    ImageTextBatch,
    choose_texts,
)
from common.data.corrupt import CorruptCounter
from common.data.image_folders import IMAGE_SETS, LabelledImages, load_image_set
from common.data.images import CachedImages, EvalTransform, ImageFiles, TrainTransform
from common.data.lines import LineFile
from common.data.lookup import bundled, data_root, require
from common.data.module import ContrastiveData
from common.data.packed import PackedAudio, PackedImages, write_packed
from common.data.samplers import SeededBatchSampler, UnpaddedDistributedSampler, sample_rng
from common.data.streaming import StreamingPairs
from common.data.synthetic import synthetic_captioned_images, synthetic_pairs, synthetic_views
from common.data.tables import read_csv, read_jsonl, read_parquet, write_jsonl
from common.data.text import BpeTokenizer, ClipTokenizer, TextTokenizer, clean_caption
from common.data.text_sets import (
    StsSet,
    load_nli_pairs,
    load_nli_triplets,
    load_sentences,
    load_sts,
    load_text_rows,
)
from common.data.text_views import TextBatch, TextViews
from common.data.views import TwoViews

__all__ = [
    "IMAGE_SETS",
    "BpeTokenizer",
    "CachedImages",
    "CaptionFiles",
    "CaptionLists",
    "CaptionedImages",
    "ClipTokenizer",
    "ContrastiveData",
    "CorruptCounter",
    "Eda",
    "EvalTransform",
    "ImageFiles",
    "ImageTextBatch",
    "LabelledImages",
    "LineFile",
    "PackedAudio",
    "PackedImages",
    "Repetition",
    "SeededBatchSampler",
    "SpanMask",
    "StreamingPairs",
    "StsSet",
    "TextBatch",
    "TextTokenizer",
    "TextViews",
    "TrainTransform",
    "TwoViews",
    "UnpaddedDistributedSampler",
    "WordDropout",
    "bundled",
    "choose_texts",
    "clean_caption",
    "data_root",
    "load_image_set",
    "load_nli_pairs",
    "load_nli_triplets",
    "load_sentences",
    "load_sts",
    "load_text_rows",
    "read_csv",
    "read_jsonl",
    "read_parquet",
    "require",
    "sample_rng",
    "synonyms_from_synsets",
    "synthetic_captioned_images",
    "synthetic_pairs",
    "synthetic_views",
    "write_jsonl",
    "write_packed",
]
