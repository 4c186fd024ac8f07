"""Text generators behind one call: a local model of transformers, or a server's.

    generate(prompts, rngs, max_new_tokens) -> answers

A row's answer depends on its prompt and its own random stream, not on its neighbours. A local model
computes the draw itself; a server is sent a seed from the stream, and may or may not keep to it.
"""

from collections.abc import Sequence
from typing import Any

from common.config import UserError
from common.data.samplers import Rng
from common.decoding.endpoint import EndpointGenerator
from common.decoding.options import Policy, ServerConfig
from common.decoding.prompts import Prompt, TextGenerator, plain_turn

_CUT = 10  # tokens that a cut prompt stays below its budget: room for the suffix


class LocalGenerator:
    """A model in this process.

    Args:
        model: `LanguageModel` or `SequenceToSequence`.
        policy: how tokens are chosen.
        batch_size: prompts per pass.
        stop: a character that ends an answer.
        prompt_budget: tokens; of a longer prompt the text is cut, to 10 fewer. None: what the
            model's context leaves.
        cut_suffix: appended to a text that was cut.
    """

    def __init__(
        self,
        model: Any,
        policy: Policy,
        batch_size: int,
        *,
        stop: str | None = None,
        prompt_budget: int | None = None,
        cut_suffix: str = "",
    ) -> None:
        self.model, self.policy, self.batch_size = model, policy, batch_size
        self.stop, self.prompt_budget, self.cut_suffix = stop, prompt_budget, cut_suffix

    def __call__(
        self, prompts: Sequence[Prompt], rngs: Sequence[Rng], max_new_tokens: int | Sequence[int]
    ) -> list[str]:
        """See `TextGenerator`.

        Raises:
            UserError: prompt budget and new tokens do not fit the model's context, or see `fit`.
        """
        if self.prompt_budget is not None:
            most = max_new_tokens if isinstance(max_new_tokens, int) else max(max_new_tokens)
            sizes = {"prompt_budget": self.prompt_budget, "max_new_tokens": most}
            if self.model.model.config.is_encoder_decoder:  # whose encoder reads the prompt alone
                del sizes["max_new_tokens"]
            if sum(sizes.values()) > self.model.context:
                said = " + ".join(f"{name} {size}" for name, size in sizes.items())
                raise UserError(f"{said} exceed the model's context of {self.model.context} tokens")
        texts = [self.fit(prompt) for prompt in prompts]
        options = {"batch_size": self.batch_size, "stop": self.stop}
        answers = self.model.continuations(texts, self.policy, rngs, max_new_tokens, **options)
        return [p.begun + answer.text for p, answer in zip(prompts, answers, strict=True)]

    def fit(self, prompt: Prompt) -> str:
        """The framed text of a prompt within the budget.

        What was asked is cut, never the frame: a turn without its header, or without the start of
        its answer, would be another task.

        Raises:
            UserError: the budget leaves no room alongside the frame.
        """
        tokenizer, budget = self.model.tokenizer, self.prompt_budget
        text = framed(tokenizer, prompt)
        if budget is None or self._count(text) + 1 <= budget:  # one place for a start token
            return text
        room = budget - _CUT - self._count(framed(tokenizer, prompt._replace(text="")))
        if room < 1:
            raise UserError(
                f"prompt_budget {budget} leaves no room for a prompt: {_CUT} tokens are kept free"
                f" and {budget - _CUT - room} frame it; raise it to {budget - room + 1} at least"
            )
        ids = tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
        cut: str = tokenizer.decode(ids[:room], skip_special_tokens=True)
        return framed(tokenizer, prompt._replace(text=cut + self.cut_suffix))

    def _count(self, text: str) -> int:
        return len(self.model.tokenizer(text, add_special_tokens=False)["input_ids"])


def framed(tokenizer: Any, prompt: Prompt) -> str:
    """The text that a model continues.

    A turn is put into the tokenizer's chat template; without one, before a line "Answer:".
    """
    if not prompt.turn:
        return prompt.text + prompt.begun
    if getattr(tokenizer, "chat_template", None) is None:
        return plain_turn(prompt)
    turn = [{"role": "user", "content": prompt.text}]
    text: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    if _adds_bos(tokenizer):
        text = text.removeprefix(tokenizer.bos_token)
    return text + prompt.begun


def _adds_bos(tokenizer: Any) -> bool:
    """Whether tokenising puts the start token in front.

    A template that writes it would double it.
    """
    if not tokenizer.bos_token:
        return False
    ids: list[int] = tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def text_generator(
    model: str,
    policy: Policy,
    server: ServerConfig,
    *,
    batch_size: int = 64,
    device: str = "auto",
    amateur: str | None = None,
    stop: str | None = None,
    prompt_budget: int | None = None,
    cut_suffix: str = "",
) -> TextGenerator:
    """The server's generator if there is an endpoint, else a local one.

    Args:
        model: folder, ``bundled:<name>`` or hub id of a causal or encoder-decoder model.
        policy: how tokens are chosen.
        server: where to ask instead.
        batch_size: prompts per pass of a local model.
        device: of a local model.
        amateur: of contrastive decoding.
        stop: a character that ends an answer.
        prompt_budget: see `LocalGenerator`; a server has its own limit.
        cut_suffix: see `LocalGenerator`.

    Raises:
        UserError: absent weights, or a policy that the server cannot be asked for.
    """
    if server.endpoint is not None:
        return EndpointGenerator(server, server.served_model or model, policy, stop)
    from common.decoding.language_model import LanguageModel
    from common.decoding.sequence_to_sequence import SequenceToSequence
    from common.encoders.text.tower import load_config

    lm: Any
    if load_config(model).is_encoder_decoder:
        lm = SequenceToSequence.from_pretrained(model, device)
    else:
        lm = LanguageModel.from_pretrained(model, device, amateur)
    return LocalGenerator(
        lm, policy, batch_size, stop=stop, prompt_budget=prompt_budget, cut_suffix=cut_suffix
    )


def generator_settings(model: str, policy: Policy, server: ServerConfig) -> dict[str, Any]:
    """What answers depend on, for the manifest of a stage.

    The address of a server is not part of it: a job may continue on another machine.
    """
    if server.endpoint is None:
        return {"model": model, "policy": repr(policy)}
    name = server.served_model or model
    return {"model": name, "policy": repr(policy), "generator": f"endpoint, {server.api}"}
