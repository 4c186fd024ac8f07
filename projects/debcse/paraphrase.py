"""`make run TASK=paraphrase`: one paraphrase of every sentence by a local causal LM."""

from typing import TYPE_CHECKING, Any, NamedTuple

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

    A text that equals its sentence is not a candidate; one that means something else fails the
    semantic threshold of the sampler.
    """
    text = completion.strip().split("\n", 1)[0].split(ARROW, 1)[0].strip()
    return text if len(text.split()) >= 2 else sentence


class Made(NamedTuple):
    """What a call of `paraphrase` did, in sentences."""

    computed: int
    unchanged: int = 0  # came back as they are: the answer was the same or too short
    long: int = 0  # of more tokens than paraphrase.prompt_budget: not asked for, as they are


def prompt_tokens(tokenizer: Any, sentence: str) -> int:
    """Tokens of a sentence's prompt, without special ones."""
    from common.encoders.text.template import plain_ids

    return len(plain_ids(tokenizer, [build_prompt(sentence)])[0])


def paraphrase(cfg: Config, workspace: "Workspace | None" = None) -> Made:
    """Fill the cache of paraphrases, keyed by sentence; restartable.

    A sentence's paraphrase depends on (seed, sentence), not on the batch it is made in. No sentence
    is cut: one of more than ``paraphrase.prompt_budget`` tokens stays as it is, and is counted.

    Args:
        cfg: the experiment's config.
        workspace: shows the progress.

    Returns:
        Counts of this call.

    Raises:
        UserError: no output folder, no such model, a model that reads too little, or a cache that
            was made with other settings.
    """
    options = cfg.paraphrase
    if options.output is None:
        raise UserError("set paraphrase.output to a folder; then pool.paraphrases names it")
    from common.data.lines import one_line
    from common.data.offline import Row, content_key
    from common.data.samplers import sample_rng
    from common.decoding.generators import text_generator
    from common.decoding.options import Policy, ServerConfig
    from common.decoding.prompts import Prompt
    from common.encoders.text.tower import load_tokenizer
    from projects.debcse.data import corpus
    from projects.debcse.offline_cache import OfflineCache

    texts = corpus(cfg)[: options.limit]
    policy = Policy("nucleus", temperature=options.temperature, top_p=options.top_p)
    settings = {
        "model": options.model,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_new_tokens": options.max_new_tokens,
        "prompt_budget": options.prompt_budget,
        "budget_of": "sentence",
        "seed": cfg.seed,
    }
    cache = OfflineCache(options.output, settings)
    if not cache.missing(texts):
        return Made(0)
    tokenizer = load_tokenizer(options.model)
    longest = prompt_tokens(tokenizer, "") + options.prompt_budget
    generate = text_generator(
        options.model,
        policy,
        ServerConfig(),
        batch_size=options.batch_size,
        stop="\n",
        prompt_budget=longest + 1,  # a start token
    )
    unchanged, long = 0, 0

    def compute(positions: list[int]) -> list[Row]:
        nonlocal unchanged, long
        made = {i: texts[i] for i in positions}
        asked = [i for i in positions if prompt_tokens(tokenizer, texts[i]) <= longest]
        long += len(positions) - len(asked)
        if asked:
            keys = [int(content_key(texts[i])[:12], 16) for i in asked]
            rngs = [sample_rng(cfg.seed, 0, key, STREAM) for key in keys]
            prompts = [Prompt(build_prompt(texts[i])) for i in asked]
            completions = generate(prompts, rngs, options.max_new_tokens)
            for i, completion in zip(asked, completions, strict=True):
                made[i] = parse_paraphrase(completion, texts[i])
            unchanged += sum(made[i] == texts[i] for i in asked)
        return [{"text": one_line(text)} for text in made.values()]

    computed = cache.fill(
        texts,
        compute,
        block_size=options.batch_size,
        progress=lambda s: workspace.progress(s, "paraphrase", len(s)) if workspace else s,
    )
    return Made(computed, unchanged, long)
