"""`make run TASK=paraphrase`: one paraphrase of every sentence by a local causal LM."""

from typing import TYPE_CHECKING

from common.config import UserError
from projects.debcse.config import Config

if TYPE_CHECKING:
    from common.engine.workspace import Workspace

INSTRUCTION = "Rewrite the sentence with other words and another structure; keep its meaning."
SHOWN = (
    ("A man is playing the guitar on stage.", "On the stage, somebody performs with a guitar."),
    ("The shop was closed because of the rain.", "Since it rained, the store did not open."),
)
ARROW = "=>"
STREAM = 48


def build_prompt(sentence: str) -> str:
    """Instruction, two examples ``sentence => paraphrase``, then ``sentence =>``."""
    shown = [f"{source} {ARROW} {target}" for source, target in SHOWN]
    return "\n\n".join([INSTRUCTION, *shown, f"{' '.join(sentence.split())} {ARROW}"])


def parse_paraphrase(completion: str, sentence: str) -> str:
    """First line up to a further arrow; the sentence itself where fewer than two words are left.

    A text that equals its sentence is no candidate; one that means something else fails the
    semantic threshold of the sampler.
    """
    text = completion.strip().split("\n", 1)[0].split(ARROW, 1)[0].strip()
    return text if len(text.split()) >= 2 else sentence


def paraphrase(cfg: Config, workspace: "Workspace | None" = None) -> int:
    """Fill the cache of paraphrases, keyed by sentence; restartable.

    A sentence's paraphrase depends on (seed, sentence), not on the batch it is made in.

    Args:
        cfg: the experiment's config.
        workspace: shows the progress.

    Returns:
        Number of sentences paraphrased by this call.

    Raises:
        UserError: no output folder, no such model, or a cache that was made with other settings.
    """
    options = cfg.paraphrase
    if options.output is None:
        raise UserError("set paraphrase.output to a folder; then pool.paraphrases names it")
    from common.data.lines import one_line
    from common.data.offline import OfflineCache, Row, content_key
    from common.data.samplers import sample_rng
    from common.decoding.generators import Prompt, text_generator
    from common.decoding.options import Policy, ServerConfig
    from projects.debcse.data import corpus

    texts = corpus(cfg)[: options.limit]
    policy = Policy("nucleus", temperature=options.temperature, top_p=options.top_p)
    settings = {
        "model": options.model, "temperature": options.temperature, "top_p": options.top_p,
        "max_new_tokens": options.max_new_tokens, "prompt_budget": options.prompt_budget,
        "seed": cfg.seed,
    }  # fmt: skip
    cache = OfflineCache(options.output, settings)
    if not cache.missing(texts):
        return 0
    generate = text_generator(
        options.model, policy, ServerConfig(), batch_size=options.batch_size, stop="\n",
        prompt_budget=options.prompt_budget, cut_suffix=f" {ARROW}",
    )  # fmt: skip

    def compute(positions: list[int]) -> list[Row]:
        chosen = [texts[i] for i in positions]
        rngs = [sample_rng(cfg.seed, 0, int(content_key(t)[:12], 16), STREAM) for t in chosen]
        prompts = [Prompt(build_prompt(text)) for text in chosen]
        completions = generate(prompts, rngs, options.max_new_tokens)
        return [
            {"text": one_line(parse_paraphrase(completion, text))}
            for completion, text in zip(completions, chosen, strict=True)
        ]

    return cache.fill(
        texts, compute, block_size=options.batch_size,
        progress=lambda s: workspace.progress(s, "paraphrase", len(s)) if workspace else s,
    )  # fmt: skip
