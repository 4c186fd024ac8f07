"""One template for all tasks: question, answer and context as text, as token ids, and back."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from common.config import UserError
from projects.demo_retrieval.question_answering import normalize_answer

SEPARATOR = " \n "
LETTERS = "abcdefghijklmnopqrstuvwxyz"  # of candidates; more of them are not listed
ANSWER = re.compile(r"answer\s*:")
UNASKED = "what is the answer?"  # of CrossFit tasks without a question of their own
MARKS = re.compile(r"\[(?:DOC|TLE|PAR|SEP)\]")  # of MRQA's documents and titles
TITLES = re.compile(r"(?:\s*\((?:[^()]|\([^()]*\))*\))+")  # UnifiedQA's, before a document
COPY_WORDS, _COPY_LETTERS = 50, 1000  # of a context that are compared; before normalisation
_SHOWN = 60
_REMEMBERED = 50_000  # texts of an encoder


class Example(NamedTuple):
    """A question of any task.

    Attributes:
        task: name of its task.
        question: what is asked.
        answers: accepted ones, the first is trained on; (): to be answered.
        context: text that the question is about.
        options: candidate answers that the input lists.
        id: unique within the task, or "".
    """

    task: str
    question: str
    answers: tuple[str, ...] = ()
    context: str = ""
    options: tuple[str, ...] = ()
    id: str = ""


def listed(options: Sequence[str]) -> str:
    """Candidates as UnifiedQA writes them.

    >>> listed(["yes", "no"])
    '(a) yes (b) no'
    """
    return " ".join(f"({letter}) {x}" for letter, x in zip(LETTERS, options, strict=False))


def with_options(example: Example, shown: bool = True) -> str:
    """The context, after the candidates if there are any."""
    parts = [listed(example.options)] if example.options and shown else []
    return SEPARATOR.join([*parts, *([example.context] if example.context else [])])


def input_text(example: Example, mask: str) -> str:
    r"""What the encoder reads of the input itself.

    >>> input_text(Example("t", "who?", context="Ann came."), "[MASK]")
    'question: who? \n answer: [MASK] \n context: Ann came. \n'
    """
    return (
        f"question: {example.question}{SEPARATOR}answer: {mask}{SEPARATOR}context:"
        f" {with_options(example)}{SEPARATOR}".rstrip(" ")
    )


def demonstration_text(example: Example, *, answer: bool = True, options: bool = True) -> str:
    r"""A labelled example, or a passage, which has no question.

    >>> demonstration_text(Example("t", "who?", ("Ann",), "Ann came."))
    'question: who? \n answer: Ann \n context: Ann came.'
    """
    parts = []
    if example.question:
        parts.append(f"question: {example.question}")
        if answer and example.answers:
            parts.append(f"answer: {example.answers[0]}")
    return SEPARATOR.join([*parts, f"context: {with_options(example, options)}"])


def target_text(example: Example, answer: str) -> str:
    r"""What the decoder writes: the question again, then the answer.

    >>> target_text(Example("t", "who?"), "Ann")
    'question: who? \n answer: Ann'
    """
    return f"question: {example.question}{SEPARATOR}answer: {answer}"


def parse_answer(text: str) -> str:
    """The answer in a generated text; "" without one.

    >>> parse_answer("question: who? answer: Ann context: Ann came."), parse_answer("Ann")
    ('Ann', '')
    """
    parts = ANSWER.split(text, maxsplit=1)
    return parts[1].split("context")[0].strip() if len(parts) == 2 else ""


def text_key(example: Example) -> str:
    """Normalised question and context: equal for copies of an example."""
    return f"{normalize_answer(example.question)}\t{normalize_answer(example.context)}"


def asked(example: Example) -> Example:
    """Split a text that holds question, candidates and context, as some CrossFit tasks do.

    >>> row = Example("t", UNASKED, context="question: Who sat? (A) Ann (B) Bob context: Ann sat.")
    >>> asked(row)[1:5]
    ('who sat?', (), 'ann sat.', ('ann', 'bob'))
    """
    if example.question != UNASKED:
        return example
    text = example.context.lower().removeprefix("question:")
    question, _, context = text.partition(" context:")
    question, letter, rest = question.partition(" (a) ")
    if not question.strip():
        return example
    options = parse_options(f"(a) {rest}") if letter else example.options
    return example._replace(question=question.strip(), options=options, context=context.strip())


def copy_keys(example: Example) -> tuple[str, ...]:
    r"""Normalised question and context; copies in any collection have one of them in common.

    UnifiedQA writes a document's title in brackets before it, MRQA marks it or has none, so there
    is a key with what stands in brackets and one without; contexts are cut at different lengths, so
    that their starts are compared. Bundled tasks and rows of one's own are compared as a whole.

    >>> copy_keys(Example("unifiedqa/t", "Who sat?", context="(Cats) The cat sat."))
    ('who sat\tcats cat sat', 'who sat\tcat sat')
    """
    if "/" not in example.task:
        return (text_key(example),)
    query = asked(example)
    text = MARKS.sub(" ", query.context[:_COPY_LETTERS])
    bare = text[match.end() :] if (match := TITLES.match(text)) else text
    starts = (
        " ".join(normalize_answer(t).split()[:COPY_WORDS]) for t in (text, bare.strip() or text)
    )
    question = normalize_answer(query.question)
    return tuple(dict.fromkeys([text_key(example), *(f"{question}\t{start}" for start in starts)]))


def from_row(row: Mapping[str, Any], place: str, task: str = "", number: int = 0) -> Example:
    """An example of a JSON object: question, answer(s), context, options, task, id.

    What is absent or null is empty.

    Args:
        row: the object.
        place: where it stands, for messages.
        task: of a row that names none.
        number: id of a row that has none.

    Raises:
        UserError: a field of another kind, or neither question nor context.
    """

    def text(value: Any, name: str) -> str:
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UserError(f"{place}: {name} must be a text, got {value!r}")
        return str(value)

    def texts(name: str) -> tuple[str, ...]:
        values = row.get(name) or []
        if not isinstance(values, list) or None in values:
            raise UserError(f"{place}: {name} must be a list of texts, got {row[name]!r}")
        return tuple(text(value, name) for value in values)

    question, context = text(row.get("question"), "question"), text(row.get("context"), "context")
    if not question and not context:
        raise UserError(f"{place}: expected question, answer (or answers) and context")
    single = text(row.get("answer"), "answer")
    answers = texts("answers") or ((single,) if single else ())
    task_name = text(row.get("task"), "task") or task
    return Example(
        task_name,
        question,
        answers,
        context,
        texts("options"),
        text(row.get("id"), "id") or str(number),
    )


# -- UnifiedQA -----------------------------------------------------------------------------------

LITERAL = "\\n"  # two characters, a backslash and an n
ANSWERS = "///"  # between several of them


def parse_unifiedqa(line: str, task: str, number: int = 0) -> Example:
    r"""An example of UnifiedQA's files: ``question \n options \n context <tab> answer``.

    The files are cased, ``(A) ... (B) ...``: as UnifiedQA's own loaders do, all of it is
    lower-cased.

    Args:
        line: of a tsv; the separators are a backslash and an n.
        task: its name.
        number: of the line, for the id.

    Raises:
        UserError: no tab, or no question.
    """
    source, tab, answer = line.rstrip("\r\n").lower().partition("\t")
    fields = [_plain(part) for part in source.split(LITERAL)]
    if not tab or not fields[0]:
        raise UserError(
            f"{task}, line {number + 1}: expected 'question \\n ... <tab> answer', got"
            f" {line[:_SHOWN]!r}"
        )
    question, rest = fields[0], fields[1:]
    options: tuple[str, ...] = ()
    if rest and rest[0].startswith("(a)"):
        options = parse_options(rest.pop(0))
    context = SEPARATOR.join(part for part in rest if part)
    golds = dict.fromkeys(_plain(part) for part in answer.split("\t")[0].split(ANSWERS))
    return Example(
        task, question, tuple(filter(None, golds)) or ("",), context, options, str(number)
    )


def _plain(text: str) -> str:
    return " ".join(text.split()).strip("'")


def parse_options(text: str) -> tuple[str, ...]:
    """The inverse of `listed`: a letter in brackets starts the next candidate only.

    >>> parse_options("(a) h2o (s) (b) f(x) = 2 (c) iron")
    ('h2o (s)', 'f(x) = 2', 'iron')
    """
    starts: list[int] = []
    for letter in LETTERS:
        match = re.search(rf"(?:^|\s)\({letter}\)", text[starts[-1] :] if starts else text)
        if match is None:
            break
        starts.append(match.end() + (starts[-1] if starts else 0))
    ends = [*(start - len(" (a)") for start in starts[1:]), len(text)]
    return tuple(text[start:end].strip() for start, end in zip(starts, ends, strict=True))


def unifiedqa_line(example: Example) -> str:
    """The inverse of `parse_unifiedqa`."""
    parts = [example.question, *([listed(example.options)] if example.options else [])]
    parts += [example.context.replace(SEPARATOR, f" {LITERAL} ")] if example.context else []
    return f" {LITERAL} ".join(parts) + "\t" + ANSWERS.join(example.answers)


# -- token ids -----------------------------------------------------------------------------------


class Encoder:
    """Token ids of inputs, demonstrations and targets.

    Texts are read piece by piece, so that what is too long is cut in contexts and demonstrations
    alone: question, mask and the template's words are always whole.

    Args:
        tokenizer: of the generator; without a mask token, T5's first sentinel stands in.
        start: id that the decoder starts with.
        max_source: tokens of demonstration and input, special ones included.
        max_demo: tokens of a demonstration.
        max_target: tokens of a target, the end included.
        demo_answers: False: demonstrations without labels.
        demo_options: whether demonstrations list theirs.
        max_options: inputs and demonstrations with more candidates don't list them.

    Raises:
        UserError: a tokenizer that has neither.
    """

    def __init__(
        self,
        tokenizer: Any,
        start: int,
        *,
        max_source: int,
        max_demo: int,
        max_target: int,
        demo_answers: bool = True,
        demo_options: bool = True,
        max_options: int = 26,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_source, self.max_demo, self.max_target = max_source, max_demo, max_target
        self.demo_answers, self.demo_options, self.max_options = (
            demo_answers,
            demo_options,
            max_options,
        )
        mask = tokenizer.mask_token or (
            "<extra_id_0>" if "<extra_id_0>" in tokenizer.get_vocab() else None
        )
        if mask is None:
            raise UserError("the generator's tokenizer has neither a mask token nor <extra_id_0>")
        self.mask, self.mask_id = str(mask), int(tokenizer.convert_tokens_to_ids(mask))
        bare, whole = self.ids("a"), list(tokenizer("a")["input_ids"])
        place = whole.index(bare[0])
        self.prefix, self.suffix = whole[:place], whole[place + len(bare) :]
        if not self.suffix:
            raise UserError(
                "the generator's tokenizer ends no text, so no answer would have an end"
            )
        # BART's targets begin with <s> after the decoder's start; other decoders start with it
        self.target_prefix = [i for i in self.prefix if i != start]
        self._known: dict[str, list[int]] = {}

    @property
    def end(self) -> int:
        """Last id of every target."""
        return int(self.suffix[-1])

    def ids(self, text: str) -> list[int]:
        """Ids without special tokens: a text that holds the mask token's name has no mask."""
        encoded = self.tokenizer(
            text,
            add_special_tokens=False,
            padding=False,
            truncation=False,
            split_special_tokens=True,
        )
        return list(encoded["input_ids"])

    def masked(self, text: str) -> list[int]:
        """As `ids`, but the mask token's name stands for a mask."""
        first, *others = [self.ids(part.rstrip()) for part in text.split(self.mask)]
        return [*first, *(i for part in others for i in (self.mask_id, *part))]

    def piece(self, text: str) -> list[int]:
        """As `ids`, remembered: template words and questions come again and again."""
        if text not in self._known:
            if len(self._known) >= _REMEMBERED:  # a large bank has more questions than memory
                self._known.clear()
            self._known[text] = self.ids(text)
        return self._known[text]

    def demonstration(self, example: Example, limit: int | None = None) -> list[int]:
        """Ids of a demonstration; what is too long is cut in the context, then in the question.

        The answer lies between the two and stays, since a demonstration is labelled.

        Args:
            example: with its answer, or a passage.
            limit: tokens; None: `max_demo`.
        """
        limit = max(0, self.max_demo if limit is None else limit)
        text = with_options(self._listing(example), self.demo_options)
        if not example.question:  # a passage
            return self.piece(f"context: {text}")[:limit]
        labelled = self.demo_answers and bool(example.answers)
        answer = self.piece(f"{SEPARATOR}answer: {example.answers[0]}") if labelled else []
        question, head = self.piece(f"question: {example.question}"), self.piece("question:")
        question = question[: max(len(head), limit - len(answer))]
        context = [*self.piece(f"{SEPARATOR}context:"), *(self.piece(f" {text}") if text else [])]
        return [*question, *answer, *context][:limit]

    def _listing(self, example: Example) -> Example:
        """Without candidates where there are too many to list."""
        many = len(example.options) > self.max_options
        return example._replace(options=()) if many else example

    def source(self, example: Example, demonstration: Example | None) -> list[int]:
        """Ids that the encoder reads: a demonstration before the input.

        Raises:
            UserError: question and template alone are too long.
        """
        before, head, kept, _ = self._laid_out(example, demonstration)
        return [*self.prefix, *before, *head, *kept, *self.piece(" \n"), *self.suffix]

    def unread(self, example: Example, demonstration: Example | None) -> tuple[int, int]:
        """Last tokens of the context that `source` cuts, and tokens of the whole context."""
        _, _, kept, whole = self._laid_out(example, demonstration)
        return whole - len(kept), whole

    def _laid_out(
        self, example: Example, demonstration: Example | None
    ) -> tuple[list[int], list[int], list[int], int]:
        """Demonstration, question and template, context as far as it is read.

        Length of the whole.
        """
        head = [
            *self.piece(f"question: {example.question}{SEPARATOR}answer:"),
            self.mask_id,
            *self.piece(f"{SEPARATOR}context:"),
        ]
        text = with_options(self._listing(example))
        context = self.ids(f" {text}") if text else []
        tail = self.piece(" \n")
        room = self.max_source - len(head) - len(tail) - len(self.prefix) - len(self.suffix)
        if room < 0:
            raise UserError(
                f"question {example.question[:_SHOWN]!r} has more tokens than data.max_source="
                f"{self.max_source} leaves: raise it"
            )
        before = [] if demonstration is None else [*self.demonstration(demonstration), *tail]
        # a context keeps what the demonstration leaves, and half of the room in any case
        kept = context[: max(room - len(before), room // 2)]
        if demonstration is not None and len(before) > room - len(kept):
            before = [*self.demonstration(demonstration, room - len(kept) - len(tail)), *tail]
        return before[: room - len(kept)], head, kept, len(context)

    def fits(self, example: Example) -> bool:
        """Whether question and template leave room for one target token at least."""
        question = len(self.ids(f"question: {example.question}{SEPARATOR}answer:"))
        fixed = (
            len(self.prefix)
            + len(self.suffix)
            + len(self.piece(f"{SEPARATOR}context:"))
            + len(self.piece(" \n"))
            + 1
        )
        target = len(self.target_prefix) + question + 2
        return question + fixed <= self.max_source and target <= self.max_target

    def target(self, example: Example, answer: str) -> list[int]:
        """Labels, the end included.

        Raises:
            UserError: a question that leaves no room for an answer.
        """
        head, body = self.target_head(example), self.ids(f" {answer}")
        room = self.max_target - len(head) - 1
        if room < 1:
            raise UserError(
                f"question {example.question[:_SHOWN]!r} leaves no answer within data.max_target="
                f"{self.max_target}: raise it"
            )
        return [*head, *body[:room], self.end]

    def target_head(self, example: Example) -> list[int]:
        """Labels before the answer."""
        return [*self.target_prefix, *self.piece(f"question: {example.question}{SEPARATOR}answer:")]
