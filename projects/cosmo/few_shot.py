"""Few-shot prompts of pictures and texts, for captions and questions, and their scores.

A demonstration is a picture with its text; a query is a picture whose text is begun. With 0
demonstrations two of them are shown without their pictures.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from common.config import UserError
from common.data.samplers import sample_rng
from common.evaluation.generation.captions import caption_metrics
from common.evaluation.generation.vqa import vqa_preprocess, vqa_training_targets
from projects.cosmo.interleaved.documents import plain

FewShotTask = Literal["caption", "vqa"]
TEXT_ONLY = 2  # demonstrations of a prompt with 0 shots
FEWEST_ANSWERS = 4  # annotators; with fewer the accuracy of a question can't reach 1
DEMO_STREAM = 91


class Item(NamedTuple):
    """A picture (or several: the frames of a clip) with what is known of it."""

    picture: Any
    texts: tuple[str, ...] = ()  # references of a caption, or annotators' answers
    question: str = ""


class Prompt(NamedTuple):
    """A text and a picture for each ``<visual>`` in it."""

    text: str
    pictures: tuple[Any, ...]


# prompts -> texts
Writer = Callable[[Sequence[Prompt]], list[str]]


def chunk(task: FewShotTask, item: Item, visual: str, end_of_chunk: str, *, answered: bool) -> str:
    """One example of a prompt, or its beginning.

    Source: Wang et al. 2024, "COSMO", released code (prompts of OpenFlamingo), arXiv 2401.00849.

    >>> chunk("vqa", Item(None, ("red", "red"), "which?"), "<v>", "<e>", answered=True)
    '<v>Question:which? Short answer:red<e>'
    """
    begun = (
        f"{visual}Output:"
        if task == "caption"
        else f"{visual}Question:{plain(item.question)} Short answer:"
    )
    if not answered:
        return begun
    answer = item.texts[0] if task == "caption" else vqa_training_targets(item.texts)[0]
    return f"{begun}{plain(answer)}{end_of_chunk}"


def few_shot_prompt(
    task: FewShotTask,
    demonstrations: Sequence[Item],
    query: Item,
    shots: int,
    *,
    visual: str = "<visual>",
    end_of_chunk: str = "<|endofchunk|>",
) -> Prompt:
    """The prompt of one query.

    Args:
        task: what is asked.
        demonstrations: `shots` of them, or two if `shots` is 0.
        query: whose texts are not read.
        shots: 0: demonstrations without pictures.
        visual: stands for a picture.
        end_of_chunk: ends a demonstration.

    >>> few_shot_prompt("caption", [Item(1, ("a bus",))], Item(2), 1).text
    '<visual>Output:a bus<|endofchunk|><visual>Output:'
    """
    shown = visual if shots else ""
    parts = [chunk(task, d, shown, end_of_chunk, answered=True) for d in demonstrations]
    parts.append(chunk(task, query, visual, end_of_chunk, answered=False))
    pictures = [d.picture for d in demonstrations] if shots else []
    return Prompt("".join(parts), (*pictures, query.picture))


def draw_demonstrations(pool: Sequence[Item], shots: int, index: int, seed: int) -> list[Item]:
    """Demonstrations of a query, drawn without replacement by its number; two if `shots` is 0.

    Raises:
        UserError: a pool that is smaller.
    """
    count = shots or TEXT_ONLY
    if len(pool) < count:
        raise UserError(f"{len(pool)} training examples for {count} demonstrations")
    rng = sample_rng(seed, shots, index, DEMO_STREAM)
    return [pool[int(i)] for i in rng.choice(len(pool), size=count, replace=False)]


def vqa_accuracy(text: str, answers: Sequence[str]) -> float:
    """Accuracy of an answer as the official evaluation has it: each annotator in turn is left out.

        1/A sum_a min(#{b != a: y_b = y} / 3, 1)

    Answers are compared in their normalised form where the annotators differ, and as they are
    written where all agree.

    Source: Goyal et al. 2017, "Making the V in VQA matter", arXiv 1612.00837, and its evaluation
    code.

    Args:
        text: what was written.
        answers: A of them, one an annotator; at least 4, with which 1 can be reached.

    >>> f"{vqa_accuracy('red', ['red'] * 3 + ['blue'] * 7):.2f}"  # three times 2 / 3, seven times 1
    '0.90'
    """
    same = len({answer.strip() for answer in answers}) == 1
    form: Callable[[str], str] = str.strip if same else vqa_preprocess
    said, references = form(text), [form(answer) for answer in answers]
    matches = references.count(said)
    return sum(min((matches - (reference == said)) / 3, 1) for reference in references) / max(
        1, len(references)
    )


def few_shot_items(
    task: FewShotTask, texts: Sequence[str], items: Sequence[Item]
) -> dict[str, list[float]]:
    """Scores of what was written: ``cider`` (x 100), or ``vqa_score`` in [0, 1]."""
    if task == "caption":
        return {"cider": caption_metrics(texts, [item.texts for item in items])[1]["cider"]}
    rows = zip(texts, items, strict=True)
    return {"vqa_score": [vqa_accuracy(text, item.texts) for text, item in rows]}


def evaluate_few_shot(
    write: Writer,
    task: FewShotTask,
    items: Sequence[Item],
    pool: Sequence[Item],
    *,
    shots: Sequence[int] = (0, 4, 8, 16, 32),
    seed: int = 42,
    pool_size: int = 2048,
    batch_size: int = 8,
) -> dict[str, float]:
    """Scores with several numbers of demonstrations.

    Args:
        write: continues prompts.
        task: caption or vqa.
        items: test examples.
        pool: training examples, of which the first `pool_size` of a seeded order serve as
            demonstrations.
        shots: numbers of demonstrations.
        seed: of pool and demonstrations.
        pool_size: largest pool.
        batch_size: prompts of a call.

    Returns:
        ``cider_<n>_shot`` or ``vqa_score_<n>_shot`` for every number.
    """
    order = sample_rng(seed, 0, 0, DEMO_STREAM).permutation(len(pool))[:pool_size]
    drawn_from = [pool[int(i)] for i in order]
    means: dict[str, float] = {}
    for count in shots:
        prompts = [
            few_shot_prompt(task, draw_demonstrations(drawn_from, count, i, seed), item, count)
            for i, item in enumerate(items)
        ]
        texts: list[str] = []
        for start in range(0, len(prompts), batch_size):
            texts += write(prompts[start : start + batch_size])
        for name, values in few_shot_items(task, texts, items).items():
            means[f"{name}_{count}_shot"] = sum(values) / max(1, len(values))
    return means
