"""What can be set; values stand in configs/demo_retrieval. Nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.layouts import Layout
from common.evaluation.own_data import Judge, OwnData
from common.ranges import Count, NonNegative, Positive, Rate, Seed, Share, Whole, at_least, between


@dataclass
class DemoData(DataConfig):
    """Tasks, the bank and their texts. Names of tasks: see `projects.demo_retrieval.sources`."""

    targets: list[str] = field(default_factory=lambda: ["made_up_qa"])  # fine-tuned and tested
    meta: list[str] = field(default_factory=list)  # of meta-training; "unifiedqa/*" is all of them
    bank: list[str] = field(default_factory=list)  # whose training examples are demonstrations
    bank_targets: bool = True  # the targets' few training examples are in the bank, too
    bank_file: str | None = None  # demonstrations (JSONL) in place of `bank`
    passages: str | None = None  # method.selection=passages: one passage per line
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


Selection = Literal["retrieved", "random_task", "random_bank", "passages", "none"]


@dataclass
class MethodConfig:
    """Demonstrations and their coupling with the generator."""

    selection: Selection = "retrieved"
    k: Annotated[int, at_least(1)] = 5  # demonstrations of an input
    coupling: Literal["token", "sequence"] = "token"  # RAG-Token, RAG-Sequence
    reduction: Literal["tokens", "sequences"] = "tokens"  # mean over tokens, or sums over sequences


@dataclass
class EvalConfig(OwnData):
    """Evaluation of the targets."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.LABELLED: Judge()}

    split: Literal["test", "dev"] = "test"
    limit: Count | None = None  # inputs of each target
    num_beams: Count = 1
    max_new_tokens: Count = 35
    batch_size: Count = 32  # inputs of a pass, K copies each
    generate: bool = True  # tasks with labels: free answers alongside the ranked labels
    rank: bool = True  # tasks with labels: by likelihood
    headline: Literal["generated", "ranked"] = "generated"  # which of the two is `accuracy`
    gold: bool = False  # copy test: the only demonstration is the input itself with its answer

    def __post_init__(self) -> None:
        if not (self.generate if self.headline == "generated" else self.rank):
            raise ValueError(
                f"eval.headline={self.headline}, but such answers are off: see eval.generate,"
                " eval.rank"
            )


@dataclass
class Config(ExperimentConfig):
    """Experiment with demonstration retrieval; `trainer` and `optim` are those of meta-training."""

    data: DemoData = field(default_factory=DemoData)
    model: GeneratorConfig = field(default_factory=GeneratorConfig)
    retriever: RetrieverConfig = field(default_factory=RetrieverConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    meta: bool = True  # False: fine-tuning alone
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    finetune_epochs: NonNegative = 0.0  # in place of finetune.max_steps
    eval: EvalConfig = field(default_factory=EvalConfig)
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finetune_epochs and self.finetune.max_steps:
            raise ValueError("finetune_epochs and finetune.max_steps are both set; zero one")
        if not (self.meta or self.finetune_epochs or self.finetune.max_steps):
            raise ValueError(
                "nothing is trained: set meta=true, finetune.max_steps or finetune_epochs"
            )
        if self.trainer.val_every_n_steps is not None:
            raise ValueError(
                "meta-training has no development part: set finetune.val_every_n_steps in place of"
                " trainer.val_every_n_steps"
            )
        if self.meta and not self.data.meta:
            raise ValueError("data.meta names no task of meta-training; or set meta=false")
        if (self.method.selection == "passages") != (self.data.passages is not None):
            raise ValueError("method.selection=passages and data.passages belong together")
        if self.model.encoder is not None and (
            self.model.pretrained != "random" or self.model.config
        ):
            raise ValueError("model.encoder stands in place of model.pretrained and model.config")
