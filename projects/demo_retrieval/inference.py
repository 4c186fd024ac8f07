"""An exported model for use: answers to questions, with a bank that can be swapped."""

from collections.abc import Sequence
from pathlib import Path

from common.config import load as load_config
from projects.demo_retrieval import folder as exported
from projects.demo_retrieval.bank import Bank, query_text, read_bank
from projects.demo_retrieval.batches import EvalRows
from projects.demo_retrieval.config import Config
from projects.demo_retrieval.retriever import TfidfSvd
from projects.demo_retrieval.stages import demonstrations_of
from projects.demo_retrieval.template import Example


class Answerer:
    """A folder written by `make export`.

    Args:
        folder: the folder.
        bank: JSONL file of demonstrations, or examples, in place of the exported ones.

    Raises:
        UserError: not such a folder, or a damaged bank.
    """

    def __init__(
        self, folder: str | Path, bank: str | Path | Sequence[Example] | None = None
    ) -> None:
        cfg = load_config(Config, "demo_retrieval", "smoke")
        self.module = exported.load(cfg, Path(folder), None if bank is None else _examples(bank))

    def swap_bank(self, bank: str | Path | Sequence[Example]) -> None:
        """Other demonstrations, from now on; no weight changes.

        Raises:
            UserError: a model that was trained without demonstrations, or a damaged bank.
        """
        from common.config import UserError

        old = self.module.bank
        if old is None:
            raise UserError("this model was trained without demonstrations: it has no bank to swap")
        self.module.bank = Bank(_examples(bank), old.retriever, old.key)

    def answer(self, question: str, context: str = "", options: Sequence[str] = ()) -> str:
        """One answer; with options the likeliest of them."""
        return self.answers([Example("", question, (), context, tuple(options))])[0]

    def answers(self, examples: Sequence[Example], batch_size: int = 16) -> list[str]:
        """Answers to questions; those with options get the likeliest of them."""
        return self.answered(examples, batch_size)[0]

    def answered(
        self, examples: Sequence[Example], batch_size: int = 16
    ) -> tuple[list[str], list[list[Example]]]:
        """Answers as `answers`, and the demonstrations that each question was shown with."""
        rows, answers = self._rows(examples), []
        for start in range(0, len(examples), batch_size):
            part = list(range(len(examples)))[start : start + batch_size]
            free = [i for i in part if not examples[i].options]
            answer_of = dict(
                zip(free, self.module.answers(rows.collate(free)) if free else [], strict=True)
            )
            for i in part:
                options = examples[i].options
                if options:
                    answer_of[i] = options[
                        int(self.module.ranked(rows.collate([i]), options).argmax())
                    ]
            answers += [answer_of[i] for i in part]
        return answers, [[d for d in shown if d is not None] for shown in rows.shown]

    def unread(self, example: Example, shown: Sequence[Example]) -> tuple[int, int]:
        """Tokens of the context that are cut next to every demonstration shown."""
        encoder = self.module.encoder
        assert encoder is not None
        if not shown:
            return encoder.unread(example, None)
        return min(encoder.unread(example, demonstration) for demonstration in shown)

    def unknown(self, examples: Sequence[Example]) -> tuple[int, list[bool]]:
        """How many demonstrations, and which questions, have no word of the retriever's."""
        demonstrations = demonstrations_of(self.module.cfg, self.module.bank)
        if (
            demonstrations.bank is None
            or demonstrations.random
            or not isinstance(demonstrations.bank.retriever, TfidfSvd)
        ):
            return 0, [False] * len(examples)
        answers = int(demonstrations.bank.key == "full")
        texts = [
            " ".join((query_text(e), *e.answers[:answers])) for e in demonstrations.bank.examples
        ]
        is_known = demonstrations.bank.retriever.knows
        return is_known(texts).count(False), [
            not x for x in is_known([query_text(e) for e in examples])
        ]

    def demonstrations(self, question: str, context: str = "") -> list[Example]:
        """What the model would be shown with a single question."""
        shown = self._rows([Example("", question, (), context)]).shown[0]
        return [d for d in shown if d is not None]

    def _rows(self, examples: Sequence[Example]) -> EvalRows:
        assert self.module.encoder is not None
        demonstrations = demonstrations_of(self.module.cfg, self.module.bank)
        return EvalRows(examples, self.module.encoder, demonstrations, 0)


def _examples(bank: str | Path | Sequence[Example]) -> list[Example]:
    return read_bank(Path(bank)) if isinstance(bank, str | Path) else list(bank)
