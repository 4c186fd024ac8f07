"""`make run TASK=search`: nearest sentences of a text file or folder."""

from common.encoders.modes import evaluated
from common.engine.experiment import Experiment
from common.engine.workspace import Workspace
from common.families.sentences.data import first_sts_set
from common.families.sentences.module import S
from common.families.sentences.protocol import SentenceExperimentConfig


def search_sentences(
    cfg: SentenceExperimentConfig, workspace: Workspace, experiment: Experiment[S]
) -> None:
    """Index texts with a trained encoder and print the nearest ones of queries.

    Raises:
        UserError: no trained run, a file that is missing or empty, or no file and no STS set.
    """
    from common.encoders.state_dict import weights_digest
    from common.engine.trained import trained_module
    from common.evaluation.retrieval.text_search import indexed, search_texts

    options = cfg.search
    module, _ = trained_module(experiment, workspace, options.run, cfg.runs_dir)
    encoder = module.encoder
    with evaluated(encoder, cfg.trainer.accelerator):
        index = indexed(
            options,
            encoder,
            lambda: first_sts_set(cfg).first,
            lambda: weights_digest(encoder),
            batch_size=cfg.eval.batch_size,
            progress=workspace.progress,
        )
        search_texts(index, options)
