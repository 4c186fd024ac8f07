"""A language model that is asked for a word: texts -> dense vectors and weighted tokens.

# B texts, n representations, D dim, V vocabulary
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.encoders.modes import evaluation_mode
from common.encoders.pooling import mean_pool
from common.encoders.text.template import plain_ids
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_tokenizer, load_transformer
from projects.promptreps.config import ModelConfig, PromptConfig, RepresentationConfig
from projects.promptreps.lexical.hybrid import Encoded
from projects.promptreps.lexical.lexical_head import (
    SCALE,
    InTextTokens,
    expansion_ids,
    impact_vector,
    log1p_relu,
)
from projects.promptreps.lexical.prompted import (
    Frame,
    PromptedModel,
    prompt_frame,
    word_groups,
)
from projects.promptreps.prompt import QUOTE, ROLES, Role, chat_prompt

Progress = Callable[[Iterable[slice], str, int], Iterable[slice]]


class PromptRepsEncoder(nn.Module):
    """A causal language model, the prompts, and how what it answers becomes vectors.

    Source: Zhuang et al. 2024, "PromptReps", section 3, arXiv 2404.18424.

    Args:
        lm: the language model.
        prompt: wording.
        options: of the representations.
    """

    def __init__(
        self, lm: PromptedModel, prompt: PromptConfig, options: RepresentationConfig
    ) -> None:
        super().__init__()
        self.lm, self.prompt, self.options = lm, prompt, options
        self.frames: dict[Role, Frame] = {role: frame(lm.tokenizer, prompt, role) for role in ROLES}
        self.in_text = InTextTokens(lambda word: plain_ids(lm.tokenizer, [word])[0])
        vocabulary = lm.tokenizer.get_vocab() if options.expansion else {}
        self.allowed = [i for i in expansion_ids(vocabulary) if i < lm.vocab_size]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.lm.device

    def rows(
        self, texts: Sequence[str], role: Role, max_length: int | None = None
    ) -> list[list[int]]:
        """Ids of the prompts around texts.

        Args:
            texts: B texts.
            role: whose wording and length.
            max_length: tokens of a text; None: the config's.

        Raises:
            UserError: see `PromptedModel.text_rows`.
        """
        limit = self.options.query_length if role == "query" else self.options.passage_length
        rows = self.lm.text_rows(texts, self.frames[role], max_length or limit)
        # an empty text without prompt and beginning has a state too
        return [row or [self.lm.pad_id] for row in rows]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """One representation of each prompt, as training needs it.

        Args:
            input_ids: (B, L) int64, padded on the right.
            attention_mask: (B, L).

        Returns:
            Dense vectors (B, D), not normalised; weights of all tokens (B, V).
        """
        if self.options.kind == "mean":
            dense = mean_pool(self.lm.all_states(input_ids, attention_mask), attention_mask)
        else:
            dense = self.lm(input_ids, attention_mask)
        return dense, log1p_relu(self.lm.logits(dense))

    def encode(
        self,
        texts: str | Sequence[str],
        role: Role,
        batch_size: int = 64,
        *,
        progress: Progress | None = None,
    ) -> Encoded:
        """Represent texts in evaluation mode, in batches of similar length.

        Args:
            texts: N texts; a single string counts as one.
            role: "query" or "passage".
            batch_size: texts per pass.
            progress: wraps the loop over the batches.

        Returns:
            ``dense`` (n, D) float on the CPU; ``sparse``, n times token id -> weight; ``owner``
            (n,), the text of each. One representation a text, unless the kind is "multi".

        Raises:
            ValueError: no texts.
            UserError: see `PromptedModel.text_rows`.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise ValueError("there is nothing to encode")
        rows = self.rows(texts, role)
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        blocks = [slice(i, i + batch_size) for i in range(0, len(order), batch_size)]
        # words of several vectors have their length already, see `_represent`
        unit = self.options.normalize and self.options.kind != "multi_word_multi"
        dense: list[Tensor] = [torch.empty(0)] * len(texts)
        sparse: list[list[dict[int, int]]] = [[]] * len(texts)
        with evaluation_mode(self), torch.inference_mode():
            for part in blocks if progress is None else progress(blocks, "encode", len(blocks)):
                chosen = order[part]
                for i, (vectors, values) in zip(
                    chosen, self._represent([rows[i] for i in chosen]), strict=True
                ):
                    vectors = F.normalize(_wide(vectors), dim=-1) if unit else _wide(vectors)
                    dense[i] = vectors.cpu()  # millions of passages do not fit alongside the model
                    sparse[i] = self._weighted(texts[i], values)
        counts = torch.tensor([len(row) for row in sparse])
        return {
            "dense": torch.cat(dense).clone(),
            "sparse": [vector for row in sparse for vector in row],
            "owner": torch.arange(len(texts)).repeat_interleave(counts),
        }

    def _represent(self, rows: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
        """Dense vectors (n, D) and token weights (n, V) of each prompt."""
        kind = self.options.kind
        if kind in ("first_token", "mean"):
            inputs = {k: v.to(self.device) for k, v in self.lm.pad(rows).items()}
            dense, values = self(**inputs)
            return [(d[None], v[None]) for d, v in zip(dense, values.cpu(), strict=True)]
        represented = []
        answers = self.lm.answer(rows, self.options.max_tokens, QUOTE)
        for states, ids, count in zip(*answers, strict=True):
            tokens = self.lm.tokenizer.convert_ids_to_tokens(ids[:count].tolist())
            groups = word_groups(tokens)
            if kind == "first_word":
                groups = groups[:1]
            elif kind == "multi_token_single":
                groups = [list(range(len(tokens)))]
            elif kind == "multi_token_multi":
                groups = [[i] for i in range(len(tokens))]
            vectors = _wide(states[:count])
            if kind == "multi_word_multi" and self.options.normalize:
                # as released: means of unit vectors stay as long as they are
                vectors = F.normalize(vectors, dim=-1)
            pair = pooled(vectors, self.lm.logits(states[:count]), groups)
            if kind == "multi_word_single":
                pair = pair[0].mean(0, keepdim=True), pair[1].amax(0, keepdim=True)
            represented.append((pair[0], log1p_relu(pair[1]).cpu()))
        return represented

    def _weighted(self, text: str, values: Tensor) -> list[dict[int, int]]:
        options, in_text = self.options, self.in_text(text)
        if options.weights == "ones" and in_text:
            return [dict.fromkeys(in_text, SCALE)] * len(values)
        return [
            impact_vector(
                v, in_text, most=options.most, expansion=options.expansion, allowed=self.allowed
            )
            for v in values
        ]


def _wide(states: Tensor) -> Tensor:
    """Float32 at least: lengths and means of 16-bit states would be rounded to three digits."""
    return states.to(torch.promote_types(states.dtype, torch.float32))


def frame(tokenizer: object, prompt: PromptConfig, role: Role) -> Frame:
    """Ids around a text; of a bare text its first token alone."""
    if not prompt.framed:
        begin = getattr(tokenizer, "bos_token_id", None)
        return Frame([] if begin is None else [begin], [])
    said = chat_prompt(prompt, role)
    return prompt_frame(tokenizer, said, chat=prompt.chat, literal=prompt.literal_backslash_n)


def pooled(
    states: Tensor, logits: Tensor, groups: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """The mean state and the largest logits of each group of tokens.

    Args:
        states: (T, D).
        logits: (T, V).
        groups: n lists of places.

    Returns:
        (n, D) and (n, V).
    """
    return (
        torch.stack([states[list(members)].mean(0) for members in groups]),
        torch.stack([logits[list(members)].amax(0) for members in groups]),
    )


def build_encoder(
    model: ModelConfig, pretrained: str | None = None, *, stand_in: dict[str, object] | None = None
) -> PromptRepsEncoder:
    """The encoder of the config, as it is before any stage.

    Args:
        model: the config's section.
        pretrained: instead of the config's.
        stand_in: architecture that is built with random weights and the built-in tokenizer instead.

    Raises:
        UserError: see `load_transformer`, `load_tokenizer`, `prompt_frame`.
    """
    from transformers import AutoModelForCausalLM

    place = "random" if stand_in is not None else pretrained or model.pretrained
    config = (stand_in or model.config) if place == "random" else None
    lm = load_transformer(
        place,
        config=config,
        attention=model.attention,
        auto_class=AutoModelForCausalLM,
        dtype=getattr(torch, model.weights),
        spread=model.spread > 1,
    )
    size = int(lm.config.vocab_size)
    tokenizer = tiny_tokenizer(min(size, 1600)) if place == "random" else load_tokenizer(place)
    return PromptRepsEncoder(PromptedModel(lm, tokenizer), model.prompt, model.representation)


def variant(
    encoder: PromptRepsEncoder, prompt: PromptConfig, **options: object
) -> PromptRepsEncoder:
    """The same language model under another prompt or with other options of the representation."""
    changed = replace(encoder.options, **options)  # type: ignore[arg-type]
    return PromptRepsEncoder(encoder.lm, prompt, changed)
