"""LLM text transform: prompt builder -> batched generation -> parser -> line-aligned file.

Any local Hugging Face causal LM turns a text file into another one with the same number of lines
in the same order. A line's prompt and its sampled tokens depend on (seed, line index) alone, so a
run that was interrupted continues after its last complete line and ends with the same file.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from common.config import UserError
from common.data.samplers import sample_rng

PROMPT_STREAM, TOKEN_STREAM = 11, 12  # independent random streams of one line


@dataclass(frozen=True)
class Decoding:
    """How completions are drawn."""

    temperature: float = 0.9  # > 0
    top_p: float = 0.95  # nucleus, in (0, 1]
    max_new_tokens: int = 77
    prompt_budget: int = 512  # tokens; a longer prompt is cut by `LineGenerator.fit`
    cut_suffix: str = ""  # appended to a prompt that was cut

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise UserError("decoding needs temperature > 0 and 0 < top_p <= 1")
        if self.max_new_tokens < 1 or self.prompt_budget < 16:
            raise UserError("decoding needs max_new_tokens >= 1 and prompt_budget >= 16")


class SeededNucleusSampling(LogitsProcessor):
    """Top-p sampling with one random stream per row, as a processor for greedy search.

    Adding Gumbel noise to log-probabilities and taking the arg-max is an exact draw from them; the
    noise comes from each row's own generator, so a row's tokens do not depend on its neighbours.

    Args:
        rngs: one generator per row.
        temperature: > 0, divides the logits.
        top_p: keep the smallest set of tokens whose probability reaches this value.
    """

    def __init__(
        self, rngs: Sequence[np.random.Generator], temperature: float, top_p: float
    ) -> None:
        self.rngs, self.temperature, self.top_p = rngs, temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Noisy log-probabilities (B, V); tokens outside the nucleus become -inf."""
        log_probs = torch.log_softmax(scores.float() / self.temperature, dim=-1)
        ordered, order = log_probs.sort(dim=-1, descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()  # mass of all likelier tokens
        ordered = ordered.masked_fill(before >= self.top_p, -torch.inf)
        kept = torch.empty_like(log_probs).scatter_(-1, order, ordered)
        noise = np.stack([rng.gumbel(size=kept.shape[-1]) for rng in self.rngs])
        return kept + torch.from_numpy(noise).to(kept)


class StopAtNewline(StoppingCriteria):
    """Ends a row as soon as its newest token contains a line break."""

    def __init__(self, breaks: Tensor) -> None:
        self.breaks = breaks  # (V,) bool

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """(B,) bool: rows that are finished."""
        return self.breaks[input_ids[:, -1]]


class LineGenerator:
    """Completes prompts with a causal LM, left-padded, up to the first line break.

    Args:
        model: causal LM with a `generate` method, moved to `device` and put in eval mode.
        tokenizer: its tokenizer.
        decoding: sampling settings.
        device: where to run; ``auto`` is a GPU if there is one.

    Raises:
        UserError: prompt budget and new tokens do not fit the model's context.
    """

    def __init__(
        self, model: Any, tokenizer: Any, decoding: Decoding, device: str = "auto"
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(device).eval()
        self.tokenizer, self.decoding, self.device = tokenizer, decoding, device
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        context = getattr(self.model.config, "max_position_embeddings", None)
        needed = decoding.prompt_budget + decoding.max_new_tokens
        if context is not None and needed > context:
            raise UserError(
                f"prompt_budget {decoding.prompt_budget} + max_new_tokens "
                f"{decoding.max_new_tokens} exceed the model's context of {context} tokens"
            )
        self.generation: Any = GenerationConfig.from_dict(
            {
                "do_sample": False,  # the draw is in `SeededNucleusSampling`
                "max_new_tokens": decoding.max_new_tokens,
                "pad_token_id": tokenizer.pad_token_id,
                "eos_token_id": tokenizer.eos_token_id,
            }
        )
        vocab = self.model.get_input_embeddings().num_embeddings
        known = min(vocab, len(tokenizer))
        breaks = ["\n" in tokenizer.decode([i]) for i in range(known)]
        self.breaks = torch.tensor(breaks + [False] * (vocab - known), device=device)

    @classmethod
    def from_pretrained(
        cls, folder_or_id: str, decoding: Decoding, device: str = "auto"
    ) -> "LineGenerator":
        """Load model and tokenizer from a local folder or the local Hugging Face cache.

        Raises:
            UserError: there is no such model on this machine.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder_or_id)
            model = AutoModelForCausalLM.from_pretrained(folder_or_id)
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot load a causal LM from '{folder_or_id}': give a folder with config.json, "
                f"weights and tokenizer, or the id of a model that is cached or can be reached "
                f"({str(error).splitlines()[0]})"
            ) from error
        return cls(model, tokenizer, decoding, device)

    def fit(self, prompt: str) -> str:
        """The prompt, cut to 10 tokens below the budget plus `cut_suffix` if it is too long."""
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        budget = self.decoding.prompt_budget
        if len(ids) + 1 <= budget:  # one place for a start token
            return prompt
        text: str = self.tokenizer.decode(ids[: budget - 10], skip_special_tokens=True)
        return text + self.decoding.cut_suffix

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[str], rngs: Sequence[np.random.Generator]) -> list[str]:
        """Completions without their prompts, in the order of the prompts."""
        batch = self.tokenizer([self.fit(p) for p in prompts], padding=True, return_tensors="pt")
        ids, mask = batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device)
        out = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=self.generation,
            logits_processor=LogitsProcessorList(
                [SeededNucleusSampling(rngs, self.decoding.temperature, self.decoding.top_p)]
            ),
            stopping_criteria=StoppingCriteriaList([StopAtNewline(self.breaks)]),
        )
        new: list[str] = self.tokenizer.batch_decode(
            out[:, ids.shape[1] :], skip_special_tokens=True
        )
        return new


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file, split at line feeds only."""
    if not path.is_file():
        raise UserError(f"there is no text file {path}: expected one text a line")
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    return text[:-1].split("\n") if text.endswith("\n") else (text.split("\n") if text else [])


def one_line(text: str) -> str:
    """Collapse every run of white space, line breaks included, to one space."""
    return " ".join(text.split())


def transform_lines(
    lines: Sequence[str],
    target: Path,
    *,
    make_prompt: Callable[[str, np.random.Generator], str],
    generate: Callable[[Sequence[str], Sequence[np.random.Generator]], list[str]],
    parse: Callable[[str, str], str],
    batch_size: int,
    seed: int,
    settings: dict[str, Any],
    progress: Callable[[range], Iterable[int]] = iter,
) -> int:
    """Write `target` with one transformed line per given line; restartable.

    Batches always begin at multiples of `batch_size`, so that a continued run repeats the batch in
    which it was stopped and appends only the missing lines.

    Args:
        lines: texts; their line breaks become spaces.
        target: written line by line; an existing one is continued after its last complete line.
        make_prompt: (text, generator of this line) -> prompt.
        generate: (prompts, one generator per prompt) -> completions.
        parse: (completion, original text) -> new text.
        batch_size: prompts per call of `generate`.
        seed: of the per-line generators.
        settings: what the output depends on, kept beside the target as ``<target>.json``.
        progress: wraps the iterator over the first lines of the batches.

    Returns:
        Number of lines written by this call.

    Raises:
        UserError: the target was made with other settings or from other lines.
    """
    lines = [one_line(line) for line in lines]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    settings = {**settings, "seed": seed, "batch_size": batch_size, "lines_sha256": digest}
    done = _resume(target, len(lines), settings)
    starts = range(done - done % batch_size, len(lines), batch_size)
    with target.open("a", encoding="utf-8", newline="\n") as out:
        for start in progress(starts):
            block = list(enumerate(lines[start : start + batch_size], start))
            prompts = [make_prompt(t, sample_rng(seed, 0, i, PROMPT_STREAM)) for i, t in block]
            rngs = [sample_rng(seed, 0, i, TOKEN_STREAM) for i, _ in block]
            completions = generate(prompts, rngs)
            for (index, text), completion in zip(block, completions, strict=True):
                if index >= done:
                    out.write(one_line(parse(completion, text)) + "\n")
            out.flush()
    return len(lines) - done


def _resume(target: Path, num_lines: int, settings: dict[str, Any]) -> int:
    """Cut a half-written last line, check the settings file; number of complete lines."""
    note = target.with_name(target.name + ".json")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        note.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != settings:
        raise UserError(
            f"{target} exists but was not made with these settings (see {note.name}): delete it, "
            "restore the settings or choose another output"
        )
    raw = target.read_bytes()
    complete = raw[: raw.rfind(b"\n") + 1]
    done = complete.count(b"\n")
    if done > num_lines:
        raise UserError(f"{target} has {done} lines, more than the {num_lines} texts")
    if len(complete) < len(raw):
        target.write_bytes(complete)
    return done
