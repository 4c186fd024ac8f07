"""Records of further text, code and recommendation sets that paper configs name."""

from collections.abc import Iterator

from common.data.official.records import HubSource, OfficialSet, RemoteFile

_DPR = "https://dl.fbaipublicfiles.com/dpr"
_MARCO = "https://msmarco.z22.web.core.windows.net/msmarcoranking"
_MARCO_TERMS = "non-commercial research, see https://microsoft.github.io/msmarco"
_SENTEVAL = "https://dl.fbaipublicfiles.com/senteval/senteval_data"
_AMAZON = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_LASER = "https://raw.githubusercontent.com/facebookresearch/LASER/main/data/tatoeba/v1"
_GITHUB = "https://raw.githubusercontent.com"

TATOEBA = (  # the 36 languages of XTREME
    "afr ara ben bul cmn deu ell est eus fin fra heb hin hun ind ita jav jpn kat kaz kor mal mar"
    " nld pes por rus spa swh tam tel tgl tha tur urd vie"
)
# name: title, licence, MB, address, file below the data root
_FILES = {
    "truthfulqa": (
        "TruthfulQA",
        "Apache 2.0",
        0.5,
        f"{_GITHUB}/sylinrl/TruthfulQA/main/TruthfulQA.csv",
        "TruthfulQA.csv",
    ),
    "gsm8k": (
        "test questions of GSM8K",
        "MIT",
        0.75,
        f"{_GITHUB}/openai/grade-school-math/master/grade_school_math/data/test.jsonl",
        "grade_school_math/data/test.jsonl",
    ),
    "halueval": (
        "question answering of HaluEval, in its own form",
        "MIT",
        6,
        f"{_GITHUB}/RUCAIBox/HaluEval/main/data/qa_data.json",
        "halueval_qa_hallucinated.json",
    ),
    "webtext": (
        "test part of the WebText sample",
        "MIT, see https://github.com/openai/gpt-2-output-dataset",
        13,
        "https://openaipublic.blob.core.windows.net/gpt-2/output-dataset/v1/webtext.test.jsonl",
        "webtext.test.jsonl",
    ),
    "humaneval": (
        "HumanEval",
        "MIT",
        0.05,
        "https://github.com/openai/human-eval/raw/master/data/HumanEval.jsonl.gz",
        "HumanEval.jsonl",
    ),
}
_BY_HAND = (  # name, title, licence, folder, what it holds, steps
    (
        "xor",
        "XOR-Retrieve's questions with passages, in DPR's form",
        "Apache 2.0; Wikipedia CC BY-SA",
        "xor",
        "dpr_train_data.json",
        "1. Follow 'DPR' in the folder baselines of https://github.com/AkariAsai/XORQA.\n"
        "2. Put dpr_train_data.json and dpr_dev_data.json (query=L, hard_negative=1) into xor.",
    ),
    (
        "yelp",
        "Yelp's reviews in RecBole's form",
        "Yelp's terms of use",
        "Yelp",
        "Yelp.inter",
        "1. Accept the terms at https://www.yelp.com/dataset.\n"
        "2. Convert its reviews to Yelp/Yelp.inter by https://github.com/RUCAIBox/RecSysDatasets.",
    ),
    *(
        (
            f"space2/{name}",
            f"{name}, 3 GB with its other half",
            "code MIT; dialogues have the licences of their sources",
            name,
            ".",
            "1. Download the data that space-2 of https://github.com/AlibabaResearch/DAMO-ConvAI"
            " names.\n"
            f"2. Unpack {name} below the data root, one folder a corpus.",
        )
        for name in ("AnPreDial", "UnPreDial")
    ),
    (
        "dialoglue",
        "DialoGLUE's seven sets",
        "those of the sets, see https://github.com/alexa/dialoglue",
        "dialoglue",
        "top",
        "1. Run download_data.sh of https://github.com/alexa/dialoglue.\n"
        "2. Its folders go below dialoglue: banking, clinc, hwu, restaurant8k, top, dstc8_sgd,"
        " multiwoz.",
    ),
    (
        "ccnet",
        "Common Crawl by CCNet, one part a language",
        "Common Crawl's terms of use",
        "ccnet",
        ".",
        "1. Run https://github.com/facebookresearch/cc_net for the languages that the config lists.\n"
        "2. Lay it out as the card of ccp or contriever describes.",
    ),
    (
        "fsc",
        "Fluent Speech Commands",
        "academic research, after accepting the terms",
        "fsc",
        ".",
        "1. Accept the terms at https://fluent.ai and download the archive.\n"
        "2. Unpack it as the card of coconut describes.",
    ),
)


def text_sets() -> Iterator[OfficialSet]:
    """All records of this module."""
    yield OfficialSet(
        "senteval",
        "STS 2012 to 2016, STS-B, SICK and the transfer tasks, as SimCSE packs them",
        "those of the original sets, see https://github.com/facebookresearch/SentEval",
        None,
        "senteval",
        hub=(HubSource("princeton-nlp/datasets-for-simcse", ("senteval.tar",)),),
        holds="STS",
        folder="SentEval/data/downstream",
    )
    yield OfficialSet(
        "glue/SNLI",
        "SNLI in GLUE's form",
        "CC BY-SA 4.0",
        None,
        "unpack_inside",
        (RemoteFile("https://dl.fbaipublicfiles.com/glue/data/SNLI.zip"),),
        holds="train.tsv",
        folder="glue_data/SNLI",
    )
    yield OfficialSet(
        "glue/MRPC",
        "MRPC with GLUE's development part",
        "Microsoft's, see https://www.microsoft.com/download/details.aspx?id=52398",
        1.5,
        "mrpc",
        (
            RemoteFile(f"{_SENTEVAL}/msr_paraphrase_train.txt"),
            RemoteFile(f"{_SENTEVAL}/msr_paraphrase_test.txt"),
            RemoteFile("https://dl.fbaipublicfiles.com/glue/data/mrpc_dev_ids.tsv"),
        ),
        holds="train.tsv",
        folder="glue_data/MRPC",
    )
    for part in ("train", "dev"):
        yield OfficialSet(
            f"dpr/nq-{part}",
            f"questions of Natural Questions with passages, {part}, in DPR's form",
            f"{_DPR}/nq_license/LICENSE",
            None,
            files=(
                RemoteFile(
                    f"{_DPR}/data/retriever/biencoder-nq-{part}.json.gz",
                    name=f"nq-{part}.json.gz",
                ),
            ),
            holds=f"nq-{part}.json",
            folder="dpr",
        )
    yield OfficialSet(
        "msmarco-doc",
        "MS MARCO documents with the parts train and dev and TREC DL 2019",
        _MARCO_TERMS,
        8_500,
        "msmarco_documents",
        (
            RemoteFile(f"{_MARCO}/msmarco-docs.tsv.gz"),
            *(
                RemoteFile(f"{_MARCO}/{file}", name=f"{part}.{kind}.gz")
                for part, files in (
                    (
                        "train",
                        (
                            "msmarco-doctrain-queries.tsv.gz",
                            "msmarco-doctrain-qrels.tsv.gz",
                            "msmarco-doctrain-top100.gz",
                        ),
                    ),
                    (
                        "dev",
                        (
                            "msmarco-docdev-queries.tsv.gz",
                            "msmarco-docdev-qrels.tsv.gz",
                            "msmarco-docdev-top100.gz",
                        ),
                    ),
                )
                for kind, file in zip(("queries", "qrels", "run"), files, strict=True)
            ),
            RemoteFile(f"{_MARCO}/msmarco-test2019-queries.tsv.gz", name="dl19.queries.gz"),
            RemoteFile(f"{_MARCO}/msmarco-doctest2019-top100.gz", name="dl19.run.gz"),
            RemoteFile("https://trec.nist.gov/data/deep/2019qrels-docs.txt", name="dl19.qrels"),
        ),
    )
    for name in ("Beauty", "Sports_and_Outdoors", "Toys_and_Games"):
        yield OfficialSet(
            f"amazon/{name}",
            f"Amazon's ratings of 2014, {name.replace('_', ' ')}, in RecBole's form",
            "research, see https://jmcauley.ucsd.edu/data/amazon",
            None,
            "interactions",
            (RemoteFile(f"{_AMAZON}/ratings_{name}.csv", name=f"Amazon_{name}.csv"),),
            holds=f"Amazon_{name}.inter",
            folder=f"Amazon_{name}",
        )
    yield OfficialSet(
        "ml-1m",
        "MovieLens 1M in RecBole's form",
        "GroupLens' terms of use, see https://grouplens.org/datasets/movielens/1m",
        6,
        "movielens",
        (
            RemoteFile(
                "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
                "md5:c4d9eecfca2ab87c1945afe126590906",
            ),
        ),
        holds="ml-1m.inter",
    )
    yield OfficialSet(
        "tatoeba",
        "Tatoeba's pairs of English and the 36 languages of XTREME, as LASER has them",
        "CC BY 2.0 (Tatoeba)",
        5,
        files=tuple(
            RemoteFile(f"{_LASER}/tatoeba.{code}-eng.{side}")
            for code in TATOEBA.split()
            for side in (code, "eng")
        ),
        holds="tatoeba.afr-eng.afr",
    )
    for name, (title, licence, megabytes, url, path) in _FILES.items():
        folder, _, file = path.rpartition("/")
        suffix = ".gz" if url.endswith(".gz") else ""
        yield OfficialSet(
            name,
            title,
            licence,
            megabytes,
            files=(RemoteFile(url, name=file + suffix),),
            holds=file,
            folder=folder or ".",
        )
    for name, title, licence, folder, holds, steps in _BY_HAND:
        yield OfficialSet(name, title, licence, None, holds=holds, folder=folder, steps=steps)
