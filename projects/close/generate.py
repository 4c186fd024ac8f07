"""`make run TASK=generate`: training sets that a language model writes, from few-shot prompts.

Source: Gu, Clark & Kembhavi 2023, section 5 and appendix, arXiv 2211.09778; the released decoding
options.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.config import UserError
from common.data.lines import read_lines
from common.data.lookup import bundled
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import RowMap, map_rows
from common.data.row_map.parts import MANIFEST
from common.data.samplers import Rng, sample_rng
from common.data.tables import read_jsonl
from common.decoding.generators import generator_settings
from common.decoding.language_model import LanguageModel
from common.decoding.options import Policy
from common.decoding.prompts import Prompt
from common.decoding.sequence_to_sequence import SequenceToSequence
from common.encoders.text.tower import load_config
from common.engine.workspace import Workspace, write_json
from common.evaluation.generation.captions import caption_words
from common.families.image_text.drawings import POOL
from projects.close.config import Config, GenerateConfig
from projects.close.penalties import WrittenPenalty
from projects.close.prompts import CAPTIONS, FIRST_PERSON, INSTRUCTIONS, shortened, shown

CHUNK = 64  # rows in a file of finished texts
KEYWORD_STREAM, SHOT_STREAM, FILTER_STREAM, DRAW_STREAM = 61, 62, 63, 64
GRAMS = range(4, 10)  # lengths of the n-grams of the filter
MANY, PER_COUNT = 50, 800.0


# -- prompts -------------------------------------------------------------------------------------


def keyword_prompt(
    instruction: str, shots: Sequence[dict[str, Any]], keywords: Sequence[str]
) -> str:
    """Instruction, demonstrations of keywords and caption, and keywords of a new caption.

    >>> print(keyword_prompt("Write.", [{"keywords": ["a", "b"], "caption": "a by b"}], ["c", "d"]))
    Write.
    <BLANKLINE>
    a, b:
    a by b
    <BLANKLINE>
    c, d:
    <BLANKLINE>
    """
    return "\n\n".join([instruction, *map(shown, shots), f"{', '.join(keywords)}:\n"])


def rewrite_prompt(
    instruction: str, shots: Sequence[dict[str, Any]], source: str, story: str = ""
) -> str:
    """Instruction, perhaps an excerpt, pairs of a caption and its rewriting, and a caption."""
    return "\n\n".join(
        [*([story] if story else []), instruction, *map(shown, shots), f"{source}\n-> "]
    )


def draw_keywords(counts: Counter[str], draw: str, rng: Rng) -> list[str]:
    """Two different keywords, uniformly or by their frequency."""
    words = sorted(counts)
    weights = None
    if draw == "unigram":
        total = counts.total()
        weights = [counts[word] / total for word in words]
    chosen = rng.choice(len(words), size=2, replace=False, p=weights)
    return [words[int(i)] for i in chosen]


def keyword_counts(path: str | None) -> Counter[str]:
    """Words of a file with their frequencies.

    Without a file nouns and names of the bundled drawings.

    Raises:
        UserError: no such file, or fewer than two words.
    """
    if path is not None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise UserError(
                f"generate.keywords={path} does not exist: give a text file of words or sentences"
            )
        words = (word for line in read_lines(file) for word in caption_words(line))
        counts = Counter(word for word in words if word.isalpha())
    else:
        nouns = bundled(f"{POOL}/classes.txt").read_text(encoding="utf-8").split("\n")
        names = Counter(caption_words(bundled(f"{POOL}/train.csv").read_text(encoding="utf-8")))
        counts = Counter({noun: max(1, names[noun]) for noun in nouns if noun})
    if len(counts) < 2:
        raise UserError("generate.keywords needs at least two different words")
    return counts


def prompts(options: GenerateConfig, seed: int) -> list[dict[str, Any]]:
    """Rows of the stage: prompt, its demonstrations, and the text its answer must not copy.

    Raises:
        UserError: files that are missing or hold something else.
    """
    instruction = options.instruction or INSTRUCTIONS[options.kind]
    shots = _demonstrations(options)
    rows: list[dict[str, Any]] = []

    def add(prompt: str, chosen: Sequence[dict[str, Any]], copy: str) -> None:
        rows.append({"prompt": prompt, "shots": [shown(shot) for shot in chosen], "copy": copy})

    if options.kind == "captions":
        counts = keyword_counts(options.keywords)
        for i in range(options.count):
            words = draw_keywords(counts, options.draw, sample_rng(seed, 0, i, KEYWORD_STREAM))
            chosen = _drawn(shots, options.num_demonstrations, sample_rng(seed, 0, i, SHOT_STREAM))
            add(keyword_prompt(instruction, chosen, words), chosen, "")
        return rows
    if options.sources is None:
        raise UserError("generate.sources is a file of captions to rewrite, one a line")
    sources = _lines(options.sources, "generate.sources")
    stories = _lines(options.stories, "generate.stories") if options.stories else [""]
    if options.kind == "character" and not options.characters:
        raise UserError(
            "generate.characters is a list of names, such as generate.characters=[Ada,Ben]"
        )
    for i in range(options.count):
        rng, source = sample_rng(seed, 0, i, SHOT_STREAM), sources[i % len(sources)]
        instruction_text, story = instruction, ""
        if options.kind == "character":
            instruction_text = instruction.format(
                name=options.characters[int(rng.integers(len(options.characters)))]
            )
            story = stories[int(rng.integers(len(stories)))]
        chosen = _drawn(shots, options.num_demonstrations, rng)
        add(rewrite_prompt(instruction_text, chosen, source, story), chosen, source)
    return rows


def _drawn(shots: list[dict[str, Any]], count: int, rng: Rng) -> list[dict[str, Any]]:
    return [shots[int(i)] for i in rng.permutation(len(shots))[:count]]


def _demonstrations(options: GenerateConfig) -> list[dict[str, Any]]:
    columns = ["keywords", "caption"] if options.kind == "captions" else ["source", "target"]
    if options.demonstrations is not None:
        return list(read_jsonl(Path(options.demonstrations).expanduser(), columns))
    return list(
        CAPTIONS
        if options.kind == "captions"
        else FIRST_PERSON
        if options.kind == "egocentric"
        else []
    )


def _lines(path: str, name: str) -> list[str]:
    file = Path(path).expanduser()
    lines = [x for x in read_lines(file) if x.strip()] if file.is_file() else []
    if not lines:
        raise UserError(f"{name}={path} is not a text file with at least one line")
    return lines


# -- the stage -----------------------------------------------------------------------------------


def write_texts(cfg: Config, workspace: Workspace) -> Path | None:
    """Let a language model write a training set (``TASK=generate``).

    Can be stopped, continued and shared out.

    Returns:
        The file, a JSON list of strings that ``data.source=text`` reads; None while shares are
        missing.

    Raises:
        UserError: no model, an output that this task did not write, or see `prompts`, `shortened`.
    """
    options = cfg.generate
    if options.model is None and cfg.generator.endpoint is None:
        raise UserError("set generate.model, such as bundled:causal-lm, or generator.endpoint")
    output = (
        workspace.folder(".") / Path(options.output).expanduser()
    )  # an absolute one stays as it is
    if output.exists() and not (workspace.path / "texts" / MANIFEST).is_file():
        raise UserError(
            f"generate.output={output} exists already: delete it or choose another name"
        )
    names = ("max_new_tokens", "best_of", "frequency_penalty", "presence_penalty", "batch_size")
    settings = {name: getattr(options, name) for name in names}
    settings |= generator_settings(str(options.model), policy_of(options), cfg.generator)
    step = RowMap("texts", partial(build_writer, cfg), settings, cfg.seed, CHUNK)
    rows = prompts(options, cfg.seed)
    mapped = map_rows(step, rows, workspace.folder("texts"), cfg.task, workspace.meter)
    workspace.say(mapped.summary)
    if not mapped.complete:
        return None
    shots, written = _demonstrations(options), list(mapped.rows())
    least, most = (choose(count for _, count in written) for choose in (min, max))
    if least < options.num_demonstrations:
        workspace.say(
            f"{least} to {most} demonstrations a prompt instead of"
            f" generate.num_demonstrations={options.num_demonstrations}: there are {len(shots)}"
            " (generate.demonstrations), as far as the model's context has room for them"
        )
    demonstrated = {str(s.get("caption", s.get("target"))) for s in shots}
    kept = cleaned([text for text, _ in written], [row["copy"] for row in rows], demonstrated)
    if options.ngram_filter:
        kept = ngram_filter(kept, sample_rng(cfg.seed, 0, 0, FILTER_STREAM))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, kept)
    workspace.say(
        f"{output}: {len(kept)} of {len(rows)} texts; train on them with data.source=text"
        f" data.text_file={output.resolve()}"
    )
    return output


def policy_of(options: GenerateConfig) -> Policy:
    """How tokens are drawn."""
    return Policy("nucleus", temperature=options.temperature, top_p=options.top_p)


def build_writer(cfg: Config) -> RowFunction:
    """Rows -> [text, demonstrations]: of `best_of` draws the most likely one by its mean."""
    options = cfg.generate
    draw, judge, fits = _drawer(cfg)

    def run(rows: Sequence[Any], seeds: Sequence[RowSeed]) -> list[tuple[str, int]]:
        fitting = [shortened(row["prompt"], row["shots"], fits) for row in rows]
        asked, counts = [text for text, _ in fitting], [count for _, count in fitting]
        return list(zip(best(asked, seeds), counts, strict=True))

    def best(asked: list[str], seeds: Sequence[RowSeed]) -> list[str]:
        drawn = [
            draw(asked, [s.rng(DRAW_STREAM, i) for s in seeds]) for i in range(options.best_of)
        ]
        if options.best_of == 1:
            return drawn[0]
        scores = [judge(asked, texts) for texts in drawn]
        chosen = []
        for r in range(len(asked)):
            own_scores = [row[r] for row in scores]
            chosen.append(own_scores.index(max(own_scores)))
        return [drawn[i][r] for r, i in enumerate(chosen)]

    return run


Draw = Callable[[list[str], list[Rng]], list[str]]
Judge = Callable[[list[str], list[str]], list[float]]
Fits = Callable[[str], bool]


def _drawer(cfg: Config) -> tuple[Draw, Judge, Fits]:
    options, policy = cfg.generate, policy_of(cfg.generate)
    if cfg.generator.endpoint is not None:
        from common.decoding.endpoint import EndpointGenerator

        if options.best_of > 1:
            raise UserError("a server gives no likelihoods here: set generate.best_of=1")
        server = cfg.generator
        ask = EndpointGenerator(server, server.served_model or str(options.model), policy, "\n")
        ask.fixed |= {
            "frequency_penalty": options.frequency_penalty,
            "presence_penalty": options.presence_penalty,
        }

        def served(asked: list[str], rngs: list[Rng]) -> list[str]:
            return ask([Prompt(text) for text in asked], rngs, options.max_new_tokens)

        # a server refuses what is too long for it
        return served, lambda asked, texts: [0.0] * len(texts), lambda text: True
    model = str(options.model)
    lm: Any
    beside = options.max_new_tokens  # places of the context that a prompt leaves
    if load_config(model).is_encoder_decoder:
        if options.best_of > 1:
            raise UserError("an encoder-decoder has no likelihoods here: set generate.best_of=1")
        lm, beside = SequenceToSequence.from_pretrained(model, options.device), 0
    else:
        lm = LanguageModel.from_pretrained(model, options.device)

    def local(asked: list[str], rngs: list[Rng]) -> list[str]:
        answers = lm.continuations(
            asked,
            policy,
            rngs,
            options.max_new_tokens,
            batch_size=options.batch_size,
            stop="\n",
            further=lambda _, columns: [
                WrittenPenalty(columns, options.frequency_penalty, options.presence_penalty)
            ],
        )
        return [answer.text for answer in answers]

    def likelihood(asked: list[str], texts: list[str]) -> list[float]:
        scores: list[float] = lm.log_likelihood(asked, texts, options.batch_size, joint="").tolist()
        # an empty text has 0, more than any other
        return [
            score if text.strip() else float("-inf")
            for score, text in zip(scores, texts, strict=True)
        ]

    def fits(text: str) -> bool:
        return bool(len(lm.tokenizer(text, verbose=False)["input_ids"]) + beside <= lm.context)

    return local, likelihood, fits


# -- what is kept --------------------------------------------------------------------------------


def cleaned(texts: Sequence[str], sources: Sequence[str], demonstrated: set[str]) -> list[str]:
    """Texts without white space around them.

    Empty ones and copies of a source or a demonstration go.

    >>> cleaned([" a dog", "", "a cat"], ["", "", "a cat"], set())
    ['a dog']
    """
    pairs = [(text.strip(), source.strip()) for text, source in zip(texts, sources, strict=True)]
    return [text for text, source in pairs if text and text != source and text not in demonstrated]


def ngram_filter(texts: Sequence[str], rng: Rng) -> list[str]:
    """Drop texts by their frequent n-grams: each of 4 to 9 words in 50 texts has counts / 800.

    Args:
        texts: N texts.
        rng: draws which go.
    """
    grams = [_grams(text) for text in texts]
    counts = Counter(gram for row in grams for gram in row)
    drop = [sum(counts[g] / PER_COUNT for g in row if counts[g] >= MANY) for row in grams]
    return [text for text, p in zip(texts, drop, strict=True) if rng.random() >= min(1.0, p)]


def _grams(text: str) -> set[tuple[str, ...]]:
    words = caption_words(text)
    return {tuple(words[i : i + n]) for n in GRAMS for i in range(len(words) - n + 1)}
