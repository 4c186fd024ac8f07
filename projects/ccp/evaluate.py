"""Neighbours, bitext before and after calibration, XOR-Retrieve, and monitors of the training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.data.tables import read_jsonl
from common.encoders.modes import evaluated
from common.engine.module import ContrastiveModule
from common.engine.workspace import Workspace
from common.evaluation.features.postprocessing import EmbeddingTransform
from common.evaluation.retrieval.beir import RetrievalSet, load_titles
from common.evaluation.search import search
from common.families.retrieval.evaluation import (
    before_and_after,
    beir_folder,
    encoder_run,
    set_names,
)
from projects.ccp.answers import BUDGETS, answer_within_tokens
from projects.ccp.bitext import (
    STAGES,
    BitextHits,
    calibrated_hits,
    mean_by_group,
    read_bitext,
)
from projects.ccp.calibration import fit_shift_and_scale
from projects.ccp.config import SIMULATED, Config
from projects.ccp.data import (
    ENGLISH,
    bitext_prefix,
    calibration_sentences,
    encode_language,
    heldout_documents,
    xor_file,
)
from projects.ccp.module import CCP
from projects.ccp.monitors import leakage, other_language_share, separation
from projects.ccp.rotation import AdversarialOptions
from projects.ccp.towers import Towers, recipe_of

K = 10
NEIGHBOURS = f"neighbour_hit_at_{K}"
LEAK_PAIRS = 1024
PSEUDO = f"{ENGLISH}-{SIMULATED}"


def evaluate(cfg: Config, module: ContrastiveModule, workspace: Workspace) -> dict[str, float]:
    """All that stands alongside the sets of the family; ``untrained_*`` as the config asks."""
    recipe = recipe_of(cfg)
    towers = module.encoder
    assert isinstance(towers, Towers)

    def measure(some: Towers, output: Workspace | None) -> dict[str, float]:
        report = neighbours(cfg, some, output)
        report |= bitext(cfg, some, output)
        return report | xor_retrieve(cfg, some, output)

    metrics = before_and_after(cfg, recipe, towers, measure, workspace)
    if isinstance(module, CCP) and module.bank is not None:
        report = separation(module.bank.features, module.bank.label("language"))
        metrics |= {f"bank_{name}": float(value) for name, value in report.items()}
        metrics |= head_metrics(cfg, module)
    return metrics


# -- neighbours ----------------------------------------------------------------------------------


def neighbours(
    cfg: Config,
    towers: Towers,
    workspace: Workspace | None,
    fits: Mapping[str, Callable[[Tensor], EmbeddingTransform]] | None = None,
) -> dict[str, float]:
    """Whether a sentence finds one of its neighbours among the nearest ten of all held-out ones.

    Args:
        cfg: the experiment's config.
        towers: in evaluation mode.
        workspace: None: no values by query are kept.
        fits: metric -> map of the vectors that training sentences (N, D) give; None: that of shift
            and scale alongside the plain vectors.
    """
    documents = heldout_documents(cfg)  # of the bundled books: searched in memory
    if not documents or not cfg.eval.neighbour_queries:
        return {}
    texts = [s for document in documents for s in document]
    vectors = encode_language(towers, texts, ENGLISH, cfg.eval)
    mono = calibration_sentences(cfg, ENGLISH, texts)
    fitted = encode_language(towers, mono, ENGLISH, cfg.eval)
    ways = {NEIGHBOURS: vectors, f"{NEIGHBOURS}_scaled": fit_shift_and_scale(fitted)(vectors)}
    if fits is not None:
        ways = {name: fit(fitted)(vectors) for name, fit in fits.items()}
    asked = neighbour_queries(documents, cfg.eval.neighbour_queries)
    right = neighbour_lists(documents, cfg.eval.neighbour_window)
    k, metrics = min(K, len(texts) - 1), dict[str, float]()
    for name, rows in ways.items():
        result = search(rows[asked], rows, k, metric="cosine", exclude=torch.tensor(asked))
        hits = [
            float(bool(right[q] & set(row)))
            for q, row in zip(asked, result.indices.tolist(), strict=True)
        ]
        metrics[name] = sum(hits) / len(hits)
        if workspace is not None:
            workspace.items(name, hits)
        if workspace is not None and name == NEIGHBOURS:
            workspace.gallery("nearest sentences", _gallery(texts, asked, result.indices, right))
    chance = [_chance(len(right[q]), len(texts) - 1, k) for q in asked]
    return {**metrics, f"{NEIGHBOURS}_chance": sum(chance) / len(chance)}


def neighbour_queries(documents: Sequence[Sequence[str]], count: int) -> list[int]:
    """Places of the sentences that ask, spread evenly over all."""
    total = sum(len(document) for document in documents)
    count = min(count, total)
    return [i * total // count for i in range(count)]


def neighbour_lists(documents: Sequence[Sequence[str]], window: int) -> list[set[int]]:
    """Neighbours of each sentence, none beyond the border of its document.

    >>> neighbour_lists([["a", "b", "c"], ["d"]], 1)
    [{1}, {0, 2}, {1}, set()]
    """
    lists, start = list[set[int]](), 0
    for document in documents:
        end = start + len(document)
        for i in range(start, end):
            lists.append({*range(max(start, i - window), min(end, i + window + 1))} - {i})
        start = end
    return lists


def _chance(right: int, others: int, k: int) -> float:
    """Probability that k of `others` in random order hold one of `right`."""
    miss = 1.0
    for i in range(k):
        miss *= max(0, others - right - i) / (others - i)
    return 1 - miss


def _gallery(
    texts: Sequence[str], asked: Sequence[int], indices: Tensor, right: Sequence[set[int]]
) -> list[dict[str, object]]:
    return [
        {
            "query": texts[q],
            "results": [
                {"item": texts[i], "score": float(K - rank), "correct": i in right[q]}
                for rank, i in enumerate(row[:5])
            ],
        }
        for q, row in zip(asked[:6], indices[:6].tolist(), strict=True)
    ]


# -- bitext --------------------------------------------------------------------------------------


def bitext(cfg: Config, towers: Towers, workspace: Workspace | None) -> dict[str, float]:
    """Accuracy on every pair, raw and after each step of the calibration, in both directions.

    ``bitext_<pair>_<stage>_forward``, ``_backward`` and ``_accuracy``; ``bitext_average_<stage>``,
    ``bitext_english_<stage>`` and ``bitext_other_<stage>`` are means over pairs.
    """
    pairs = bitext_pairs(cfg)
    tested: dict[str, set[str]] = {}
    for pair, sides in pairs.items():
        for language, texts in zip(pair.split("-"), sides, strict=True):
            tested.setdefault(language, set()).update(texts)
    mono = {
        language: encode_language(
            towers, calibration_sentences(cfg, language, sorted(values)), language, cfg.eval
        )
        for language, values in tested.items()
    }
    rotation = (
        AdversarialOptions(steps=cfg.eval.rotation_steps) if cfg.eval.rotation_steps else None
    )
    metrics: dict[str, float] = {}
    stages: dict[str, dict[str, float]] = {}
    for pair, sides in pairs.items():
        first, second = pair.split("-")
        x, y = (
            encode_language(towers, texts, language, cfg.eval)
            for texts, language in zip(sides, (first, second), strict=True)
        )
        hits = calibrated_hits(x, y, mono[first], mono[second], rotation, seed=cfg.seed)
        metrics |= _bitext_metrics(pair, hits, workspace)
        for stage, values in hits.items():
            stages.setdefault(stage, {})[pair] = values.accuracy
    for stage in STAGES:
        if stage in stages:
            means = mean_by_group(stages[stage])
            metrics |= {f"bitext_{group}_{stage}": value for group, value in means.items()}
    if len(mono) > 1:
        fewest = min(len(values) for values in mono.values())
        equal = [values[:fewest] for values in mono.values()]
        label = torch.cat([torch.full((fewest,), i) for i in range(len(equal))])
        metrics |= {k: float(v) for k, v in separation(torch.cat(equal), label).items()}
        metrics["other_language_share"] = other_language_share(equal, min(K, fewest))
    return metrics


def bitext_pairs(cfg: Config) -> dict[str, tuple[list[str], list[str]]]:
    """Sentences of both sides by pair; held-out ones twice for the simulated language."""
    pairs = {
        pair: read_bitext(bitext_prefix(cfg, place)) for pair, place in cfg.eval.bitext.items()
    }
    if cfg.eval.pseudo_bitext:
        texts = [s for document in heldout_documents(cfg) for s in document]
        texts = list(dict.fromkeys(texts))
        step = max(1, len(texts) // cfg.eval.pseudo_bitext)
        chosen = texts[::step][: cfg.eval.pseudo_bitext]
        pairs[PSEUDO] = chosen, chosen
    return pairs


def _bitext_metrics(
    pair: str, hits: Mapping[str, BitextHits], workspace: Workspace | None
) -> dict[str, float]:
    metrics = {}
    for stage, values in hits.items():
        name = f"bitext_{pair}_{stage}"
        metrics[f"{name}_forward"] = float(values.forward.double().mean())
        metrics[f"{name}_backward"] = float(values.backward.double().mean())
        metrics[f"{name}_accuracy"] = values.accuracy
        if workspace is not None:
            workspace.items(
                f"{name}_accuracy", [*values.forward.double(), *values.backward.double()]
            )
    gain = f"bitext_{pair}_gain"  # of shift and scale, paired by sentence and direction
    raw, scaled = (
        torch.cat([hits[s].forward, hits[s].backward]).double() for s in ("raw", "scaled")
    )
    metrics[gain] = float((scaled - raw).mean())
    if workspace is not None:
        workspace.items(gain, (scaled - raw).tolist())
    return metrics


# -- XOR-Retrieve --------------------------------------------------------------------------------


def xor_retrieve(cfg: Config, towers: Towers, workspace: Workspace | None) -> dict[str, float]:
    """R@2kt and R@5kt of every set, ``<set>_r_at_2kt``, and their macro average.

    As in the official script a set without any question that counts is left out of the average, and
    answers are looked for in passages without their titles, which the encoder alone sees.
    Sets of one folder share its collection, which is encoded once.
    """
    metrics: dict[str, float] = {}
    names = set_names(cfg.eval.xor)
    folders: dict[Path, list[str]] = {}
    for place in names:
        folders.setdefault(beir_folder(cfg, place), []).append(place)
    for folder, places in folders.items():
        asked = {place: xor_questions(folder / xor_file(place)) for place in places}
        # a retrieval leaves out the document that has the query's id: no passage has one of these
        questions = {
            f"question {place} {i}": str(row["question"])
            for place, rows in asked.items()
            for i, row in enumerate(rows)
        }
        titles, texts = load_titles(folder)
        corpus = {d: f"{titles[d]} {text}".strip() for d, text in texts.items()}
        run = encoder_run(cfg, recipe_of(cfg), towers, RetrievalSet(corpus, questions, {}))
        for place, rows in asked.items():
            answers = (
                answer_within_tokens(
                    [texts[d] for d in run[f"question {place} {i}"]], row["answers"]
                )
                for i, row in enumerate(rows)
            )
            counted = [answer for answer in answers if answer is not None]
            for budget in BUDGETS if counted else ():
                values = [float(answer[budget]) for answer in counted]
                key = f"{names[place]}_r_at_{budget // 1000}kt"
                metrics[key] = sum(values) / len(values)
                if workspace is not None:
                    workspace.items(key, values)
    for budget in BUDGETS:
        key = f"r_at_{budget // 1000}kt"
        values = [metrics[f"{n}_{key}"] for n in names.values() if f"{n}_{key}" in metrics]
        if values:
            metrics[f"xor_{key}"] = sum(values) / len(values)
    return metrics


def xor_questions(file: Path) -> list[dict[str, Any]]:
    """Rows with ``question`` and ``answers``.

    Raises:
        UserError: a missing file, or answers that are no list of texts.
    """
    rows = read_jsonl(file, ("question", "answers"))
    for number, row in enumerate(rows, start=1):
        answers = row["answers"]
        if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
            raise UserError(f"{file}, row {number}: 'answers' has to be a list of texts")
    return rows


# -- monitors ------------------------------------------------------------------------------------


def head_metrics(cfg: Config, module: CCP) -> dict[str, float]:
    """Leakage: accuracy of held-out pairs with and without the statistics of their batch."""
    documents = heldout_documents(cfg)
    if not documents or module.head is None:
        return {}
    pairs = [(d[i], d[i + 1]) for d in documents for i in range(0, len(d) - 1, 2)]
    step = max(1, len(pairs) // LEAK_PAIRS)
    chosen = pairs[::step][:LEAK_PAIRS]
    with evaluated(module, cfg.trainer.accelerator):
        raw = module.encoder.passage.normalize
        module.encoder.passage.normalize = False  # the head sees states
        center, context = (
            encode_language(module.encoder, side, ENGLISH, cfg.eval)
            for side in (list(s) for s in zip(*chosen, strict=True))
        )
        module.encoder.passage.normalize = raw
        device = next(module.head.parameters()).device
        size = min(cfg.data.batch_size, len(chosen))
        return leakage(module.head, center.to(device), context.to(device), size)


def search_texts(cfg: Config) -> list[str]:
    """What the task "search" looks in when the config names no file."""
    sentences = [s for document in heldout_documents(cfg) for s in document]
    if not sentences:
        raise UserError("give a text file or folder in search.file")
    return sentences
