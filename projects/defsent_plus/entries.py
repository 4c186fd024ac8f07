"""The matrix of entries: mean embeddings of definitions, independent components, a control."""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from common.distributed.process import is_rank_zero
from common.encoders.state_dict import read_state_dict, weights_digest
from common.encoders.text.sentence import SentenceEncoder
from common.engine.lifecycle.kept_weights import kept_path
from common.evaluation.features.geometry import mean_cosine
from common.evaluation.text.sts_protocol import encode_distinct
from common.export.files import write_tensors
from common.families.sentences.evaluation import encoding
from projects.defsent_plus.config import Config, IcaConfig
from projects.defsent_plus.data import Dictionary, definition_encoder, refuse_long
from projects.defsent_plus.ica import fit_ica


def entry_matrix(definitions: list[list[str]], encode: Callable[[list[str]], Tensor]) -> Tensor:
    """Entry embeddings.

        E_e = 1/m sum_{j=1..m} enc(D_j)

    Source: arXiv 2405.16153 and the official code: AC with the [CLS] states, AMP with the masked
    means. A mean over definitions, each weighing the same whatever its length.

    Args:
        definitions: of the n entries, at least one each.
        encode: N texts -> (N, D), in evaluation mode; each distinct text is asked for once.

    Returns:
        (n, D) float32 on the CPU.

    >>> e = entry_matrix([["a", "b"], ["b"]], lambda texts: torch.tensor([[2.0], [4.0]]))
    >>> e.flatten().tolist()
    [3.0, 4.0]
    """
    vectors, row = encode_distinct(encode, [text for texts in definitions for text in texts])
    owner = [e for e, texts in enumerate(definitions) for _ in texts]
    chosen = vectors[[row[text] for texts in definitions for text in texts]].double()
    total = torch.zeros(len(definitions), vectors.shape[1], dtype=torch.float64)
    total.index_add_(0, torch.tensor(owner), chosen)
    counts = torch.tensor([len(texts) for texts in definitions])
    return (total / counts[:, None]).float()


def independent_entries(entries: Tensor, ica: IcaConfig) -> Tensor:
    """Standardised entries, turned into independent components of standard deviation `scale`.

    Source: official code of arXiv 2405.16153: standard scaling, FastICA with D components, times
    100.

    Args:
        entries: (n, D), n > D.
        ica: options of the fit.

    Returns:
        (n, D) in the dtype of `entries`; sign and order of the columns are arbitrary.

    Raises:
        UserError: the entries span fewer than D directions.
    """
    transform = fit_ica(entries, scale=ica.scale, max_iter=ica.max_iter, tol=ica.tol, seed=ica.seed)
    if not transform.converged:
        warnings.warn(f"FastICA stopped after entry.ica.max_iter={ica.max_iter}", stacklevel=2)
    return transform(entries)


def random_entries(entries: Tensor, seed: int) -> Tensor:
    """The control: Gaussian rows of the same mean square, which know nothing of their entries."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(entries.shape, generator=generator)
    return noise * entries.square().mean().sqrt()


def round_entries(
    cfg: Config, dictionary: Dictionary, encoder: SentenceEncoder, number: int
) -> tuple[Tensor, list[float]]:
    """Targets of a round, and how isotropic they are.

    Args:
        cfg: the experiment's config; not for entry.targets=lm_head.
        dictionary: n entries.
        encoder: M_{k-1}, of the round before (M_0 in the first).
        number: k, from 1.

    Returns:
        (n, D), and their mean cosine before and after ICA (nan without).
    """
    entries = cached_entries(cfg, dictionary, encoder)
    cosines = [mean_cosine(entries), float("nan")]
    if cfg.entry.targets == "random":
        entries = random_entries(entries, cfg.seed)
        cosines[0] = mean_cosine(entries)
    if cfg.entry.ica.enabled and number == cfg.rounds:
        entries = independent_entries(entries, cfg.entry.ica)
        cosines[1] = mean_cosine(entries)
    return entries, cosines


def cached_entries(cfg: Config, dictionary: Dictionary, encoder: SentenceEncoder) -> Tensor:
    """`entry_matrix` by an encoder, read from the disk if an earlier run has computed the same.

    Raises:
        UserError: a definition that is too long, unless data.long=truncate.
    """
    definitions = definition_encoder(cfg, encoder, cfg.entry.encoding)
    if cfg.data.long == "refuse":
        refuse_long([t for texts in dictionary.definitions for t in texts], definitions)
    parts = {
        "weights": weights_digest(encoder.tower.model),
        "definitions": dictionary.definitions,
        "encoding": cfg.entry.encoding,
        "max_length": definitions.max_length,
        "model": cfg.model.pretrained,
    }
    path = kept_path(offline_folder(cfg), "entries", "defsent_plus", parts)
    path = path.with_suffix(".safetensors")
    if path.is_file():
        return read_state_dict(path)["entries"]
    with encoding(cfg, definitions) as encode:
        entries = entry_matrix(dictionary.definitions, encode)
    if is_rank_zero():
        write_tensors(path, {"entries": entries})
    return entries


def offline_folder(cfg: Config) -> Path:
    """Where entries and the models of earlier rounds are kept, for all runs of the project."""
    return Path(cfg.runs_dir) / "defsent_plus" / "offline"
