"""Tasks of the MTEB library on our encoders (the `eval` group).

Source: Muennighoff et al. 2023, "MTEB", arXiv 2210.07316.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.evaluation.retrieval.text_index import TextEncoder, embed_texts
from common.files import write_text

_PACKAGES = ("mteb", "datasets", "transformers", "tokenizers", "torch", "numpy", "scipy")


class MtebEncoder:
    """What ``mteb.evaluate`` takes as a model.

    Args:
        encoder: a `SentenceEncoder`, or a function list of B texts -> (B, D) in evaluation mode.
        name: of the model, in the results.
        prompts: text that is put before every input, by MTEB's rules for the key: task name or
            task type, each with or without ``-query`` / ``-document``, or only these two words. An
            encoder with a method ``encode_prompted(texts, prompt, batch_size)`` gets it apart.

    Attributes:
        used_prompts: what every encoded input got, ``"<task>/<query, document or text>" ->
            prompt``.

    Raises:
        UserError: mteb is not installed.
    """

    def __init__(
        self, encoder: TextEncoder, name: str, prompts: Mapping[str, str] | None = None
    ) -> None:
        mteb = _mteb()
        self.encoder, self.prompts = encoder, dict(prompts or {})
        self.used_prompts: dict[str, str] = {}
        named = name if "/" in name else f"local/{name}"
        self.mteb_model_meta = mteb.models.ModelMeta.create_empty(
            {"name": named, "revision": "local", "similarity_fn_name": "cosine"}
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: int = 64,
        **options: Any,
    ) -> Any:
        """Embed the texts of a data loader of MTEB; returns a NumPy array (N, D)."""
        from mteb.models.abs_encoder import get_prompt_name

        key = get_prompt_name(self.prompts, task_metadata, prompt_type)
        prompt = "" if key is None else self.prompts[key]
        role = "text" if prompt_type is None else str(prompt_type.value)
        self.used_prompts[f"{task_metadata.name}/{role}"] = prompt
        texts = [text for batch in inputs for text in batch["text"]]
        if hasattr(self.encoder, "encode_prompted"):
            return self.encoder.encode_prompted(texts, prompt, batch_size).numpy()
        texts = [prompt + text for text in texts]
        return embed_texts(self.encoder, texts, batch_size).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosine of every row with every row: (M, D), (N, D) -> (M, N)."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosine of row i with row i: (N, D), (N, D) -> (N,)."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(-1)


def evaluate_mteb(
    encoder: TextEncoder,
    tasks: Sequence[Any],
    path: str | Path,
    *,
    name: str,
    prompts: Mapping[str, str] | None = None,
    batch_size: int = 64,
) -> dict[str, float]:
    """Run tasks and write their scores with everything that they depend on.

    Args:
        encoder: see `MtebEncoder`.
        tasks: names such as "STSBenchmark" (MTEB downloads the data), or tasks of MTEB.
        path: JSON file: model, versions, prompts, and MTEB's result of every task.
        name: see `MtebEncoder`.
        prompts: see `MtebEncoder`.
        batch_size: texts per pass of the encoder.

    Returns:
        ``mteb_<task> -> main score``, in MTEB's unit (0 to 1).

    Raises:
        UserError: mteb is not installed, an unknown task, or data that cannot be had.
    """
    mteb = _mteb()
    model = MtebEncoder(encoder, name, prompts)
    try:
        loaded = [mteb.get_task(t) if isinstance(t, str) else t for t in tasks]
    except KeyError as error:
        raise UserError(f"unknown MTEB task: {error}") from error
    try:
        results = mteb.evaluate(
            model,
            loaded,
            cache=None,
            encode_kwargs={"batch_size": batch_size},
            show_progress_bar=False,
            co2_tracker=False,
        )
    except OSError as error:  # also what the download raises
        raise UserError(f"the data of the MTEB tasks cannot be loaded: {error}") from error
    tower = getattr(encoder, "tower", None)
    report = {
        "model": name,
        "pooling": getattr(tower, "pooling", None),
        "max_length": getattr(encoder, "max_length", None),
        "versions": {package: version(package) for package in _PACKAGES},
        "prompts": model.used_prompts,
        "tasks": [result.model_dump(mode="json") for result in results.task_results],
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(report, indent=2) + "\n")
    return {f"mteb_{r.task_name}": float(r.get_score()) for r in results.task_results}


def _unit(rows: Any) -> Tensor:
    return F.normalize(torch.as_tensor(rows).float(), dim=-1)


def _mteb() -> Any:
    try:
        import mteb
    except ImportError as error:
        raise UserError("mteb is not installed; install the 'eval' group") from error
    return mteb
