"""Options of data, generator, retriever, stages and tasks of `make run`."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from common.config import DataConfig
from common.ranges import Count, Positive, Rate, Seed, Share, Whole, at_least, between


@dataclass
class DemoData(DataConfig):
    """Tasks, the bank and their texts. Names of tasks: see `projects.demo_retrieval.sources`."""

    targets: list[str] = field(default_factory=lambda: ["made_up_qa"])  # fine-tuned and tested
    meta: list[str] = field(default_factory=list)  # of meta-training; "unifiedqa/*" is all of them
    bank: list[str] = field(default_factory=list)  # whose training examples are demonstrations
    bank_targets: bool = True  # the targets' few training examples are in the bank, too
    bank_file: str | None = None  # demonstrations (JSONL) in place of `bank`
    passages: str | None = None  # method.selection=passages: one passage a line
    exclude_eval_tasks: bool = True  # neither meta-training nor bank hold the targets' data sets
    shots: Count = 16  # of each class of a target
    qa_shots: Count = 128  # of a target without classes
    dev_shots: Whole = 16  # as `shots`, for eval.split=dev and selection
    split_seed: Seed | None = (
        None  # of the draw of few examples, or of the official files; None: seed
    )
    task_cap: Count = 10_000  # a task counts as at most so many examples
    mixing: Literal["proportional", "uniform"] = "proportional"  # min(n, cap), or the same for each
    max_source: Annotated[int, at_least(16)] = 800  # tokens of demonstration and input
    max_demo: Annotated[int, at_least(4)] = 350  # tokens of a demonstration
    max_target: Annotated[int, at_least(4)] = 128
    max_options: Annotated[int, between(0, 26)] = 26  # examples of more candidates don't list them
    demo_options: bool = True  # demonstrations list theirs
    demo_answers: bool = True  # False: demonstrations without labels


@dataclass
class GeneratorConfig:
    """The encoder-decoder."""

    pretrained: str = "random"  # any encoder-decoder of transformers
    config: dict[str, Any] | None = None  # with random: model_type and its fields
    tokenizer: str | None = None  # with random: of other weights; None: the built-in one
    encoder: str | None = (
        None  # in place of pretrained: a masked language model, which gets a decoder
    )
    decoder_layers: Count = 2  # of that decoder
    dropout: Rate | None = None  # None: the model's own
    checkpointing: bool = False  # activations are computed again in the backward pass


@dataclass
class RetrieverConfig:
    """The frozen retriever."""

    kind: Literal["tfidf_svd", "dpr", "dense"] = "tfidf_svd"
    question: str | None = None  # dpr, dense: weights of the question encoder
    context: str | None = None  # dpr, dense: of the demonstrations' encoder; None: the same
    pooling: Literal["cls_before_pooler", "avg"] = "avg"  # dense
    max_length: Count = 256  # tokens of a text; dpr, dense
    dim: Count = 256  # tfidf_svd
    scale: Positive = 1.0  # what dot products are multiplied by
    key: Literal["full", "question_context"] = (
        "full"  # of a demonstration: with its answer or without
    )
    cache: str | None = None  # folder of indexes; None: in memory
    train_question_encoder: bool = False  # there is no such thing here: it stays frozen

    def __post_init__(self) -> None:
        if self.train_question_encoder:
            raise ValueError(
                "the retriever is frozen: leave retriever.train_question_encoder false"
            )
        if (self.kind == "tfidf_svd") != (self.question is None):
            raise ValueError("retriever.question belongs to the kinds dpr and dense")


@dataclass
class PhaseConfig:
    """A stage with settings of its own."""

    max_steps: Whole = 0  # 0: no such stage
    lr: Positive | None = 1e-4  # None: optim.lr
    batch_size: Count = 8
    accumulate_grad_batches: Count = 1  # the trainer's own is that of meta-training


@dataclass
class FinetuneConfig(PhaseConfig):
    """Fine-tuning on the targets' few examples."""

    val_every_n_steps: Count | None = None  # keeps the best step by F1 on development examples


@dataclass
class DenoiseConfig(PhaseConfig):
    """Text infilling with plain sentences, for a decoder that nobody has trained."""

    sentences: Count = 20_000
    mask_share: Share = 0.3  # of the words
    mean_span: Positive = 3.0  # of a Poisson distribution


@dataclass
class AnswerConfig:
    """`make run TASK=answer`: your own questions, with your own bank."""

    run: str | None = None  # a folder written by make export
    input: str | None = None  # JSONL: question, context, options
    question: str | None = None  # or a single question
    context: str = ""
    bank: str | None = None  # JSONL of demonstrations; None: the exported one


@dataclass
class FewShotConfig:
    """`make run TASK=few_shot`: the same meta-trained model on several draws."""

    seeds: list[Annotated[int, at_least(0)]] = field(default_factory=lambda: [42, 43, 44, 45, 46])
    run: str | None = None  # export of a meta-trained model; None: every draw trains all stages
