"""Causal language models that are asked by a prompt: the state at its end, and what they answer.

# B texts, L tokens, T answered tokens, D dim, V vocabulary
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from torch import Tensor, nn

from common.config import UserError
from common.encoders.text.language_models.causal import final_logits
from common.encoders.text.pooling import last_token
from common.encoders.text.template import TEXT, plain_ids
from common.encoders.text.tuned.prefix import cache_argument

SPACES = (" ", "\u0120", "\u2581")  # how tokenizers mark a piece that begins a word
BREAK, WRITTEN_BREAK = "\n", "\\n"


@dataclass(frozen=True)
class ChatPrompt:
    """What a model is told about a text.

    Attributes:
        user: the user's turn; holds ``{text}`` once.
        answer: how the assistant's turn begins; nothing closes it, the model goes on there.
        system: the system's turn; templates without one get it at the start of the user's.
    """

    user: str
    answer: str = ""
    system: str = ""

    def __post_init__(self) -> None:
        if self.user.count(TEXT) != 1 or TEXT in self.answer + self.system:
            raise ValueError(f"the user's turn needs {TEXT!r} once, got {self.user!r}")


class Frame(NamedTuple):
    """Ids before and after the ids of a text."""

    prefix: list[int]
    suffix: list[int]


class Answers(NamedTuple):
    """Greedy answers to B prompts."""

    states: Tensor  # (B, T, D), each what its token was chosen from; zeros after a row's end
    tokens: Tensor  # (B, T) int64
    counts: Tensor  # (B,) int64 in [1, T]: tokens that belong to the answer


def render(tokenizer: Any, prompt: ChatPrompt, *, chat: bool | None = None) -> str:
    """The prompt as text, with ``{text}`` where the text goes.

    Args:
        tokenizer: of the model; its chat template is used.
        prompt: what is said.
        chat: use the template; None: if there is one. Without, the turns stand on lines of their
            own.

    Raises:
        UserError: a template was asked for and there is none, or it drops a part of the prompt.
    """
    has = getattr(tokenizer, "chat_template", None) is not None
    if chat and not has:
        raise UserError(
            "this tokenizer has no chat template: set chat to false, or take another model"
        )
    if not has or chat is False:
        return BREAK.join(part for part in (prompt.system, prompt.user, prompt.answer) if part)
    end = [{"role": "assistant", "content": prompt.answer}] if prompt.answer else []
    options = {"continue_final_message": True} if end else {"add_generation_prompt": True}

    def written(turns: list[dict[str, str]]) -> str:
        try:
            text: str = tokenizer.apply_chat_template([*turns, *end], tokenize=False, **options)
        except (TemplateError, ValueError):  # "system role not supported"; no trace of the answer
            return ""
        return text

    user = {"role": "user", "content": prompt.user}
    if prompt.system:
        text = written([{"role": "system", "content": prompt.system}, user])
        if prompt.system in text and TEXT in text:
            return text
        user = {"role": "user", "content": f"{prompt.system} {prompt.user}"}
    text = written([user])
    if text.count(TEXT) != 1 or not text.endswith(prompt.answer) or prompt.system not in text:
        raise UserError(f"the chat template does not keep the prompt as it is: {text[-200:]!r}")
    return text


def prompt_frame(
    tokenizer: Any, prompt: ChatPrompt, *, chat: bool | None = None, literal: bool = False
) -> Frame:
    """Ids around a text, which are tokenised apart from it.

    A template writes the token that begins a text itself; without one it is put in front if the
    tokenizer has it.

    Args:
        tokenizer: of the model.
        prompt: what is said.
        chat: see `render`.
        literal: line breaks are written as a backslash and an n, outer white space is cut off.

    Raises:
        UserError: see `render`.
    """
    parts = render(tokenizer, prompt, chat=chat).split(TEXT)
    if literal:
        parts = [part.strip().replace(BREAK, WRITTEN_BREAK) for part in parts]
    prefix, suffix = plain_ids(tokenizer, parts)
    templated = chat is not False and getattr(tokenizer, "chat_template", None) is not None
    begin = getattr(tokenizer, "bos_token_id", None)
    if not templated and begin is not None:
        prefix = [begin, *prefix]
    return Frame(prefix, suffix)


def begins_word(token: str) -> bool:
    """Whether a piece of the vocabulary carries the mark of a space before it."""
    return token.startswith(SPACES)


def word_groups(tokens: Sequence[str]) -> list[list[int]]:
    """Places of the tokens of each word: a token with a space before it opens a new one.

    >>> word_groups(["re", "trieval", "\u0120of", "\u0120text", "s"])
    [[0, 1], [2], [3, 4]]
    """
    groups: list[list[int]] = []
    for place, token in enumerate(tokens):
        if not groups or begins_word(token):
            groups.append([])
        groups[-1].append(place)
    return groups


class PromptedModel(nn.Module):
    """A causal language model with its head and tokenizer, read at the end of a prompt.

    Args:
        model: of transformers, from ``AutoModelForCausalLM``.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.num_features = int(model.get_output_embeddings().weight.shape[1])
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self.context = int(getattr(model.config, "max_position_embeddings", 0) or 10**9)
        pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad_id = int(next(i for i in pads if i is not None))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        parameter: Tensor = next(self.model.parameters())
        return parameter.device

    def text_rows(self, texts: Sequence[str], frame: Frame, max_length: int) -> list[list[int]]:
        """Ids of prompts around texts; a long text is cut, the prompt never.

        Args:
            texts: N texts.
            frame: ids around each.
            max_length: tokens of a text, without the prompt.

        Raises:
            UserError: the prompt leaves no room for such a text in the model's context.
        """
        room = self.context - len(frame.prefix) - len(frame.suffix)
        if max_length > room:
            raise UserError(
                f"texts of {max_length} tokens and a prompt of {self.context - room} do not fit a "
                f"model of {self.context} positions: set a length of at most {max(room, 0)}"
            )
        rows = plain_ids(self.tokenizer, [text.strip() for text in texts])
        return [[*frame.prefix, *ids[:max_length], *frame.suffix] for ids in rows]

    def pad(self, rows: Sequence[Sequence[int]], side: str = "right") -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` (B, L) int64 of rows, on the CPU."""
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self.pad_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
            ids[i, place], mask[i, place] = torch.tensor(row), 1
        return {"input_ids": ids, "attention_mask": mask}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """State after the final norm at the last token that is not padding.

        Args:
            input_ids: (B, L) int64, padded on the right.
            attention_mask: (B, L), 1 at tokens.

        Returns:
            (B, D). The head is applied to what is needed of it alone, never to all L positions.
        """
        return last_token(self.all_states(input_ids, attention_mask), attention_mask)

    def all_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """States of all positions after the final norm, (B, L, D)."""
        output = self.model.base_model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        )
        states: Tensor = output.last_hidden_state
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Next-token logits (..., V) of states (..., D), float32 (float64 of a float64 model)."""
        logits: Tensor = self.model.get_output_embeddings()(states)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return final_logits(self.model, logits)

    @torch.no_grad()
    def answer(self, rows: Sequence[Sequence[int]], most: int, stop: str) -> Answers:
        """Continue prompts greedily; each ends by itself.

        A row ends before the token that contains `stop` or ends the text; its first token counts in
        any case. Rows are computed side by side and do not see each other.

        Args:
            rows: ids of B prompts.
            most: T, tokens at most.
            stop: character that ends an answer.

        Raises:
            UserError: no room for `most` tokens after a prompt.
        """
        longest = max(len(row) for row in rows)
        if longest + most - 1 > self.context:
            raise UserError(
                f"a prompt of {longest} tokens and {most} new ones do not fit a model of "
                f"{self.context} positions: shorten the texts"
            )
        inputs = {k: v.to(self.device) for k, v in self.pad(rows, side="left").items()}
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        place = (mask.cumsum(1) - 1).clamp(min=0)
        name = cache_argument(self.model.base_model) or "past_key_values"
        cache, states, tokens = None, [], []
        counts = torch.full((len(rows),), most, device=ids.device)
        for step in range(most):
            output = self.model.base_model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=place,
                use_cache=True,
                **{name: cache},
            )
            cache, state = getattr(output, name), output.last_hidden_state[:, -1]
            token = self.logits(state).argmax(-1)
            ended = self._ends(token.tolist(), stop).to(ids.device)
            counts = torch.where(ended & (counts == most), max(step, 1), counts)
            states.append(state)
            tokens.append(token)
            if bool((counts <= step).all()):
                break
            ids, place = token[:, None], place[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        stacked = torch.stack(states, 1)
        real = torch.arange(stacked.shape[1], device=ids.device) < counts[:, None]
        return Answers(
            stacked * real[..., None], torch.stack(tokens, 1), counts.clamp(max=stacked.shape[1])
        )

    def _ends(self, tokens: Iterable[int], stop: str) -> Tensor:
        eos = self.tokenizer.eos_token_id
        return torch.tensor([t == eos or stop in self.tokenizer.decode([t]) for t in tokens])
