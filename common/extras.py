"""Which extra of ``pyproject.toml`` a missing module is in."""

# extra -> modules that it installs and that `common` or a project imports
EXTRAS = {
    "text": (
        "bm25s",
        "ftfy",
        "nltk",
        "peft",
        "regex",
        "rouge_score",
        "sacrebleu",
        "tokenizers",
        "transformers",
    ),
    "image": ("open_clip", "timm", "torchvision", "webdataset"),
    "speech": ("torchaudio",),
    "code": (
        "tree_sitter",
        "tree_sitter_go",
        "tree_sitter_java",
        "tree_sitter_javascript",
        "tree_sitter_php",
        "tree_sitter_ruby",
    ),
    "video": ("av",),
    "audio": ("soundfile",),
    "large": ("accelerate", "bitsandbytes"),
    "parquet": ("pyarrow",),
    "tracking": ("wandb",),
    "eval": ("faster_coco_eval", "mauve", "mteb", "pytrec_eval", "sentence_transformers"),
    "dashboard": ("wandb_workspaces",),
    "scale": ("ray",),
}


def missing(error: ModuleNotFoundError, user: str) -> str | None:
    """What to type for a module that is not installed; None for a module of no extra.

    Args:
        error: of the import.
        user: who imports it: a project's slug or a verb.
    """
    module = (error.name or "").split(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return f"{user} needs '{module}' of the extra '{extra}': pip install -e '.[{extra}]'"
    return None
