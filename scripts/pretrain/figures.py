"""Figures of a model folder as a user would load it: what its card states and a test re-computes.

    python -m scripts.pretrain figures data/models/text-encoder

Weights that belong to another vocabulary than the tokenizer next to them load without a word. Only
a figure that was computed from the folder itself can tell.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers import AutoTokenizer as Tokenizers

from common.data.text.lexical import surface_similarity
from common.data.text.masking import IGNORED, mask_tokens
from common.data.text.sets import load_sts
from common.encoders.image_text.open_clip_dual import CONFIG_FILE, OpenClipDualEncoder
from common.encoders.text.sentence import sentence_encoder
from common.evaluation.features.postprocessing import fit_whitening
from common.evaluation.text.sts import pair_cosine, spearman
from scripts.pretrain import corpus
from scripts.pretrain.dual_figures import dual_metrics, pixel_metrics
from scripts.pretrain.vocabulary import pieces

POOLINGS = ("avg", "avg_first_last", "avg_embedding_last", "avg_top2")
NUM_TEXTS = 300
WITH_PHOTOGRAPHS = ("dual-encoder",)  # that have seen classes of CIFAR-10
STORY = (  # in the words of the stories that stories260k was trained on
    "Once upon a time there was a little girl named Lily. She liked to play in the park with her"
    " dog. One day she saw a big red ball. She was very happy and ran to it. Her mom said it was"
    " time to go home."
)


def figures(folder: Path, num_texts: int = NUM_TEXTS) -> dict[str, float]:
    """Loss on held-out text, and similarity of plain mean pooling, of a model folder.

    Args:
        folder: transformers layout, tokenizer included; or open_clip's.
        num_texts: held-out sentences.

    Returns:
        ``loss`` in nats per (masked) token, ``accuracy`` of masked models, ``stsb_spearman``; of a
        dual encoder `dual_metrics` and `pixel_metrics` of `scripts.pretrain.dual_figures`.
    """
    if (folder / CONFIG_FILE).is_file():
        encoder = OpenClipDualEncoder.from_folder(folder).eval()
        own = dual_metrics(encoder, None, photographs=folder.name in WITH_PHOTOGRAPHS)
        return own | pixel_metrics(None)
    kind = AutoConfig.from_pretrained(folder).architectures[0]
    found = (masked_loss if kind.endswith("MaskedLM") else causal_loss)(folder, num_texts)
    encode = mean_pooling(folder)
    return {**found, "stsb_spearman": _sts(encode)}


@torch.inference_mode()
def masked_loss(folder: Path, num_texts: int = NUM_TEXTS) -> dict[str, float]:
    """Loss and accuracy over masked words (20 %) of held-out sentences."""
    tokenizer = Tokenizers.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    continues = np.array([piece.startswith("##") for piece in pieces(tokenizer)])
    loss, hits, count = 0.0, 0.0, 0
    for index, text in enumerate(corpus.sentences(None, "test")[:num_texts]):
        ids = np.array(tokenizer(text, truncation=True, max_length=128)["input_ids"])
        masked, labels = mask_tokens(
            ids,
            np.isin(ids, tokenizer.all_special_ids),
            np.random.default_rng(index),
            mask_id=tokenizer.mask_token_id,
            vocab_size=len(tokenizer),
            probability=0.2,
            continues=continues[ids],
        )
        chosen = torch.from_numpy(labels != IGNORED)
        if not chosen.any():
            continue
        logits = model(input_ids=torch.from_numpy(masked)[None]).logits[0, chosen]
        wanted = torch.from_numpy(labels)[chosen]
        loss += float(F.cross_entropy(logits, wanted, reduction="sum"))
        hits += float((logits.argmax(1) == wanted).sum())
        count += len(wanted)
    return {"loss": loss / count, "accuracy": hits / count}


@torch.inference_mode()
def causal_loss(folder: Path, num_texts: int = NUM_TEXTS) -> dict[str, float]:
    """Loss over held-out sentences, each on its own; of stories260k on a text of its own kind."""
    tokenizer = Tokenizers.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    story = folder.name == "stories260k"
    texts = [STORY] if story else corpus.sentences(None, "test", sources=["book"])[:num_texts]
    loss, count = 0.0, 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)["input_ids"]
        if ids.shape[1] < 2:
            continue
        logits = model(input_ids=ids).logits[0, :-1]
        loss += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    return {"loss": loss / count}


def mean_pooling(folder: Path) -> Callable[[list[str]], Tensor]:
    """Texts -> mean of the last states, (N, D), by transformers alone."""
    tokenizer = Tokenizers.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def encode(texts: list[str]) -> Tensor:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        rows: list[Tensor] = [torch.empty(0)] * len(texts)
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            ids = [
                torch.tensor(tokenizer(texts[i], truncation=True, max_length=128)["input_ids"])
                for i in chosen
            ]
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(x) for x in ids], True)
            padded = torch.nn.utils.rnn.pad_sequence(ids, True)
            states = model(input_ids=padded, attention_mask=mask).last_hidden_state
            for i, z in zip(
                chosen, (states * mask[..., None]).sum(1) / mask.sum(1, True), strict=True
            ):
                rows[i] = z
        return torch.stack(rows)

    return encode


def _sts(encode: Callable[[list[str]], Tensor]) -> float:
    pairs = load_sts(None, "stsb-test")
    return spearman(pair_cosine(encode(pairs.first), encode(pairs.second)), pairs.scores)


def sts_table(folder: Path) -> list[tuple[str, float, float, float, float]]:
    """Spearman on STS-B test by pooling: raw, centred, whitened on training text and on the test texts.

    The last one is the transductive setting of Su et al. 2021: it has seen the (unlabelled) texts.
    """
    pairs = load_sts(None, "stsb-test")
    texts = [*pairs.first, *pairs.second]
    train = corpus.sentences(None, "train")[:8000]
    rows = []
    for pooling in POOLINGS:
        encoder = sentence_encoder(str(folder), pooling, attention="eager").eval()
        test, fitted = encoder.encode(texts), encoder.encode(train)
        scores = []
        for change in (
            lambda x: x,
            lambda x: x - fitted.mean(0),  # noqa: B023
            fit_whitening(fitted, ridge=1e-6),
            fit_whitening(test, ridge=1e-6),
        ):
            z = change(test)
            scores.append(spearman(pair_cosine(*z.chunk(2)), pairs.scores))
        rows.append((pooling, *scores))
    return rows


def stated(folder: Path) -> dict[str, float]:
    """The figures that the card of a model folder states, of its table "Figures"."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([-0-9.]+) \|", text, re.M)
    return {name: float(value) for name, value in rows}


def main(folder: Path) -> None:
    """Print the tables of a card."""
    print("| figure | value |\n|---|---|")
    for name, value in figures(folder).items():
        print(f"| `{name}` | {value:.3f} |")
    if (folder / CONFIG_FILE).is_file():
        return
    if AutoConfig.from_pretrained(folder).architectures[0].endswith("MaskedLM"):
        print("\n| pooling | raw | centred | whitened (training text) | whitened (test texts) |")
        print("|---|---|---|---|---|")
        pairs = load_sts(None, "stsb-test")
        overlap = surface_similarity(pairs.first, pairs.second, "jaccard")
        print(f"| none: word-set Jaccard | {spearman(overlap, pairs.scores):.3f} | | | |")
        for pooling, *scores in sts_table(folder):
            print(f"| {pooling} | " + " | ".join(f"{s:.3f}" for s in scores) + " |")
