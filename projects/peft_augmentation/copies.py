"""`make run TASK=copies`: training examples reworded offline, into a cache that training reads."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import RowMap, map_rows
from common.data.tables import write_jsonl
from common.data.text.augment import STOP_WORDS, WordDropout
from common.data.text.lexical import words
from common.decoding.generators import generator_settings, text_generator
from common.decoding.options import Policy
from common.decoding.prompts import Prompt
from common.engine.workspace import Workspace
from common.export.files import output_file
from projects.peft_augmentation.classification.module import labelled_parts
from projects.peft_augmentation.config import Config, CopiesConfig

CHUNK_BATCHES = 8  # batches in a file of finished rows
DROPPED = 0.2  # share of the words, of word_dropout
PROMPT = (
    "Say the following sentence with other words and another structure. Keep its meaning, its"
    " tense, all names and about its length. Write only the new sentence.\n\n{text}"
)
REFUSALS = ("i cannot", "i can't", "as an ai", "i'm sorry", "i am sorry")
LENGTHS = (0.7, 1.3)  # of a paraphrase, relative to the words of its source


def write_copies(cfg: Config, workspace: Workspace) -> Path:
    """Reword the training examples of the config; the file becomes ``augment.cache``.

    Rows are ``{id, field, method, text}``: `id` is the hash of an example's texts, so that the
    cache serves this seed's examples and smaller draws of them; another seed draws others. What
    comes back unchanged, or does not pass the filters, is left out.

    Raises:
        UserError: absent weights, or a folder of other examples or settings.
    """
    task, reworded = cfg.copies, cfg.data.labelled_task.reworded
    train, _ = labelled_parts(cfg.data, cfg.seed)
    rows: list[dict[str, Any]] = [
        {"id": key, "field": place, "text": texts[place]}
        for key, texts in zip(train.ids, train.texts, strict=True)
        for place in reworded
    ]
    step = RowMap(
        task.method,
        partial(row_function, task),
        settings(task),
        cfg.seed,
        chunk_size=CHUNK_BATCHES * task.batch_size,
    )
    output = output_file(task.output, workspace.folder("copies"), "copies.jsonl")
    done = map_rows(step, rows, output.with_name(output.name + ".parts"), cfg.task, workspace.meter)
    workspace.say(done.summary)
    if done.complete:
        rewritten = [
            {"id": row["id"], "field": row["field"], "method": task.method, "text": new}
            for row, new in zip(rows, done.rows(), strict=True)
            if accepted(row["text"], new, task)
        ]
        write_jsonl(output, rewritten)
        workspace.say(f"{len(rewritten)} of {len(rows)} texts reworded; augment.cache={output}")
    return output


def settings(cfg: CopiesConfig) -> dict[str, Any]:
    """What new texts depend on."""
    policy = cfg.decoder.policy()
    if cfg.method == "paraphrase":
        return {
            **generator_settings(cfg.model, policy, cfg.generator),
            "tokens": cfg.max_new_tokens,
        }
    if cfg.method == "word_dropout":
        return {"dropped": DROPPED}
    return {
        "forward": cfg.forward,
        "backward": cfg.backward,
        "beams": cfg.num_beams,
        "decoding": repr(policy) if cfg.sample else "beams",
        "tokens": cfg.max_new_tokens,
    }


def row_function(cfg: CopiesConfig) -> RowFunction:
    """Rows with a text -> new texts."""
    if cfg.method == "word_dropout":
        drop = WordDropout(DROPPED)
        return lambda rows, seeds: [
            drop(row["text"], seed.rng(0)) for row, seed in zip(rows, seeds, strict=True)
        ]
    return _paraphraser(cfg) if cfg.method == "paraphrase" else _there_and_back(cfg)


def accepted(source: str, new: str, cfg: CopiesConfig) -> bool:
    """Whether a new text is kept: not the source again, and of a paraphrase much of its content.

    >>> accepted("It is late", "it is  late.", CopiesConfig())
    False
    """
    before, after = words(source), words(new)
    if not new.strip() or before == after:
        return False
    if cfg.method != "paraphrase":
        return True
    content = {word for word in before if word not in STOP_WORDS}
    kept = len(content & set(after)) / max(len(content), 1)
    low, high = (share * len(before) for share in LENGTHS)
    refused = any(new.lower().startswith(phrase) for phrase in REFUSALS)
    return kept >= cfg.kept_words and int(low) <= len(after) <= high + 1 and not refused


def _there_and_back(cfg: CopiesConfig) -> RowFunction:
    from common.decoding.sequence_to_sequence import SequenceToSequence

    there = SequenceToSequence.from_pretrained(cfg.forward, cfg.device)
    back = SequenceToSequence.from_pretrained(cfg.backward, cfg.device)
    policy, size = cfg.decoder.policy(), cfg.batch_size

    def translate(rows: Sequence[Any], seeds: Sequence[RowSeed]) -> list[str]:
        texts = [row["text"] for row in rows]
        pivot = there.beam_search(texts, cfg.num_beams, cfg.max_new_tokens, batch_size=size)
        if not cfg.sample:
            return back.beam_search(pivot, cfg.num_beams, cfg.max_new_tokens, batch_size=size)
        rngs = [seed.rng(0) for seed in seeds]
        answers = back.continuations(pivot, policy, rngs, cfg.max_new_tokens, batch_size=size)
        return [answer.text.strip() for answer in answers]

    return translate


def _paraphraser(cfg: CopiesConfig) -> RowFunction:
    policy: Policy = cfg.decoder.policy()
    generate = text_generator(
        cfg.model, policy, cfg.generator, batch_size=cfg.batch_size, device=cfg.device, stop="\n"
    )

    def paraphrase(rows: Sequence[Any], seeds: Sequence[RowSeed]) -> list[str]:
        asked = [Prompt(PROMPT.format(text=row["text"]), turn=True) for row in rows]
        texts_out = generate(asked, [seed.rng(0) for seed in seeds], cfg.max_new_tokens)
        return [text.strip() for text in texts_out]

    return paraphrase
