"""`make run TASK=split` and `TASK=calibrate`."""

import json
from pathlib import Path

from common.config import UserError
from common.damage import reading
from common.data.lines import read_lines
from common.encoders.modes import evaluated
from common.engine.experiment import Experiment
from common.engine.module import ContrastiveModule
from common.engine.trained import trained_module
from common.engine.workspace import Workspace
from common.export.files import output_file
from common.files import replacing
from projects.ccp.calibration import fit_shift_and_scale, save_calibration
from projects.ccp.config import Config
from projects.ccp.data import encode_language
from projects.ccp.neighbours import documents_of_lines, in_blocks
from projects.ccp.sentences import split_any
from projects.ccp.towers import Towers


def split(cfg: Config, workspace: Workspace) -> Path:
    """Write the text of one language as documents of consecutive sentences, for ``data.languages``.

    Documents of one sentence are left out and counted. Languages are independent: run one process
    for each.

    Returns:
        The file.

    Raises:
        UserError: no input, or no document of two sentences in it.
    """
    options = cfg.split
    if options.input is None:
        raise UserError("give a text file or a folder of .txt files in split.input")
    source = Path(options.input).expanduser()
    files = sorted(source.rglob("*.txt")) if source.is_dir() else [source]
    read = [str(file) for file in files]
    output = output_file(options.output, workspace.folder("."), "documents.jsonl", read)
    count = alone = 0
    # written as they come: the text of one file is held, not that of a language
    with (
        replacing(output) as partial,
        partial.open("w", encoding="utf-8", newline="\n") as target,
    ):
        for file in workspace.progress(files, "split", len(files)):
            lines = text_lines(file)
            documents = (
                documents_of_lines(lines)
                if options.layout == "lines"
                else (split_any(line) for line in lines)
            )
            for document in documents:
                alone += len(document) == 1
                for block in in_blocks(document, options.block):
                    count += 1
                    target.write(json.dumps({"sentences": block}, ensure_ascii=False) + "\n")
        if not count:
            raise UserError(f"{source} has no document of two or more sentences; see split.layout")
    left_out = f"; {alone:,} of one sentence are left out, see split.layout" if alone else ""
    workspace.say(f"{output}: {count:,} documents{left_out}")
    return output


def text_lines(file: Path) -> list[str]:
    """Lines of a text file.

    Raises:
        UserError: no such file, or one that is not UTF-8.
    """
    with reading(file, "text file in UTF-8"):
        return read_lines(file)


def calibrate(cfg: Config, workspace: Workspace, experiment: Experiment[ContrastiveModule]) -> Path:
    """Write shift and scale of languages from their own text, to be applied to an export's vectors.

    Returns:
        The file, for `projects.ccp.calibration.load_calibration`.

    Raises:
        UserError: no trained run, no input, or a file of fewer than two texts.
    """
    options = cfg.calibrate
    if not options.input:
        raise UserError("give a text file of each language in calibrate.input, {de: de.txt}")
    by_language = {}  # all files are read before the first text is encoded
    for language, place in options.input.items():
        texts = [line for line in text_lines(Path(place).expanduser()) if line.strip()]
        if len(texts) < 2:
            raise UserError(f"calibrate.input.{language}: {place} needs two or more texts")
        by_language[language] = texts
    read = list(options.input.values())
    output = output_file(options.output, workspace.folder("."), "calibration.safetensors", read)
    module, _ = trained_module(experiment, workspace, options.run, cfg.runs_dir)
    towers = module.encoder
    assert isinstance(towers, Towers)
    transforms = {}
    with evaluated(towers, cfg.trainer.accelerator):
        for language, texts in workspace.progress(
            by_language.items(), "calibrate", len(by_language)
        ):
            vectors = encode_language(towers, texts, language, cfg.eval)
            transforms[language] = fit_shift_and_scale(vectors)
    save_calibration(output, transforms)
    workspace.say(f"{output}: {', '.join(transforms)}")
    return output
