"""The rewrite stage: in-context prompts for a base LM, and the parser of its answers."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from common.config import UserError
from projects.laclip.config import ALIASES, RewriteConfig

if TYPE_CHECKING:
    from common.engine.workspace import Workspace

INSTRUCTION = "Write every image caption again in different words."
NUM_DEMONSTRATIONS = 3
ARROW = "=>"
Pair = tuple[str, str]


@lru_cache(1)
def meta_pairs() -> Mapping[str, Sequence[Sequence[str]]]:
    """Demonstration material by source type: pairs, and for mscoco groups of five captions."""
    path = Path(__file__).with_name("meta_pairs.yaml")
    content: dict[str, list[list[str]]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def demonstrations(source_type: str, rng: np.random.Generator) -> list[Pair]:
    """Three pairs of one source type, drawn without replacement.

    For mscoco three scenes are drawn, and of each two different captions in random order.

    Args:
        source_type: chatgpt, bard, mscoco (alias coco) or human.
        rng: generator of one caption.

    Raises:
        UserError: another source type.
    """
    source_type = ALIASES.get(source_type, source_type)
    pairs = meta_pairs()
    if source_type not in pairs:
        raise UserError(f"source_type '{source_type}': use one of {', '.join(pairs)} or coco")
    material = pairs[source_type]
    chosen = [material[i] for i in rng.choice(len(material), NUM_DEMONSTRATIONS, replace=False)]
    if source_type == "mscoco":
        chosen = [[group[i] for i in rng.permutation(len(group))[:2]] for group in chosen]
    return [(source, target) for source, target in chosen]


def build_prompt(caption: str, source_type: str, rng: np.random.Generator) -> str:
    """Instruction, three demonstrations ``source => target``, then ``caption =>``.

    The parts are separated by blank lines; a caption's own line breaks become spaces.

    Source: Fan et al. 2023 (arXiv 2305.20088) and the rewriting script of its official code.
    """
    pairs = demonstrations(source_type, rng)
    shown = [f"{source} {ARROW} {target}" for source, target in pairs]
    return "\n\n".join([INSTRUCTION, *shown, f"{' '.join(caption.split())} {ARROW}"])


def parse_rewrite(completion: str, caption: str) -> str:
    """The rewrite in what the LM wrote after the prompt's final arrow.

    It ends at the first line break or at a further arrow. The caption is returned instead where
    fewer than two words are left.

    Args:
        completion: new text without the prompt.
        caption: the original.
    """
    line = completion.strip().split("\n", 1)[0]
    text = line.split(ARROW, 1)[0].strip()
    return text if len(text.split()) >= 2 else caption


def rewrite_file(cfg: RewriteConfig, workspace: "Workspace | None" = None) -> int:
    """Rewrite every caption of a text file or CSV with a local causal LM; restartable.

    Args:
        cfg: the rewrite section of the config.
        workspace: shows the progress.

    Returns:
        Number of lines written by this call.

    Raises:
        UserError: input, output or model missing, or an output made with other settings.
    """
    if cfg.input is None or cfg.output is None:
        raise UserError("set rewrite.input (a caption per line, or the CSV) and rewrite.output")
    from common.data.image_text.captions import CaptionFiles
    from common.data.text.rewriting import Decoding, LineGenerator, read_lines, transform_lines
    from common.encoders.pretrained import resolve_pretrained

    if cfg.input.endswith(".csv"):
        files = CaptionFiles(cfg.input)
        captions = [files.texts(i)[0] for i in range(len(files))]
    else:
        captions = read_lines(Path(cfg.input))
    ref = resolve_pretrained(cfg.model)
    decoding = Decoding(
        cfg.temperature, cfg.top_p, cfg.max_new_tokens, cfg.prompt_budget, cut_suffix=f" {ARROW}"
    )
    generate = LineGenerator.from_pretrained(str(ref.path or ref.name), decoding, cfg.device)
    source_type = ALIASES.get(cfg.source_type, cfg.source_type)
    return transform_lines(
        captions,
        Path(cfg.output),
        make_prompt=lambda text, rng: build_prompt(text, source_type, rng),
        generate=generate,
        parse=parse_rewrite,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        settings={
            "model": cfg.model,
            "source_type": source_type,
            "temperature": cfg.temperature,
            "top_p": cfg.top_p,
            "max_new_tokens": cfg.max_new_tokens,
            "prompt_budget": cfg.prompt_budget,
        },
        progress=lambda s: workspace.progress(s, "rewrite", len(s)) if workspace else s,
    )
