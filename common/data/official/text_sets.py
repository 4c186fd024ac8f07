"""Records of further text, speech and recommendation sets that paper configs name.

MD5 sums of MS MARCO and TREC are those of ir_datasets, SHA-256 sums of GLUE's files those of
Hugging Face's datasets 1.18, of Speech Commands those of torchaudio.
"""

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
_DL_TRACKS = {  # year: MD5 of the queries, of the judgements
    2019: ("eda71eccbe4d251af83150abe065368c", "2f4be390198da108f6845c822e5ada14"),
    2020: ("00a406fb0d14ed3752d70d1e4eb98600", "0355ccee7509ac0463e8278186cdd8d1"),
}
_DOCUMENT_FILES = {  # part: kind: file of MS MARCO, MD5
    "train": {
        "queries": ("msmarco-doctrain-queries.tsv.gz", "4086d31a9cf2d7b69c4932609058111d"),
        "qrels": ("msmarco-doctrain-qrels.tsv.gz", "9d1609e240113b0504fd2e61cb36d924"),
        "run": ("msmarco-doctrain-top100.gz", "be32fa12eb71e93014c84775d7465976"),
    },
    "dev": {
        "queries": ("msmarco-docdev-queries.tsv.gz", "ac20593d71b9c32ab2633230f9cdf10d"),
        "qrels": ("msmarco-docdev-qrels.tsv.gz", "5eeafaeb4960979a62e7fed93273254e"),
        "run": ("msmarco-docdev-top100.gz", "ac10255edf321821b0ccd0f123037780"),
    },
}
_MRPC_DIGESTS = {
    "train": "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
    "test": "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784",
    "dev_ids": "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7",
}
_UNCHECKED = "\nNot checked: that page could not be read; compare address, licence and layout."
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
        "fluent_speech_commands_dataset",
        "data",
        "1. Accept the terms at https://fluent.ai and download the archive.\n"
        "2. Unpack it as fluent_speech_commands_dataset/{wavs,data/{train,valid,test}_data.csv}.",
    ),
    *(
        (
            name,
            title,
            "agreement with its owner",
            name,
            "corpus.jsonl",
            f"1. Ask for the collection: {page}.\n"
            f"2. Write it in the BEIR layout: {name}/corpus.jsonl, queries.jsonl, qrels/test.tsv."
            + _UNCHECKED,
        )
        for name, title, page in (
            ("robust04", "TREC Robust 2004", "https://trec.nist.gov/data/cd45"),
            ("clueweb09b", "ClueWeb09, category B", "https://lemurproject.org/clueweb09"),
            ("gov2", "GOV2", "http://ir.dcs.gla.ac.uk/test_collections/gov2-summary.htm"),
        )
    ),
    *(
        (
            f"mq{year}",
            f"queries of the Million Query track {year} over GOV2 (LETOR 4.0)",
            "Microsoft's, and the agreement for GOV2",
            f"mq{year}",
            "corpus.jsonl",
            "1. Queries and judgements are those of LETOR 4.0 at https://www.microsoft.com/research;"
            " their texts are of GOV2.\n"
            f"2. Write them in the BEIR layout: mq{year}/corpus.jsonl, queries.jsonl, qrels/test.tsv."
            + _UNCHECKED,
        )
        for year in (2007, 2008)
    ),
    (
        "b_prop/documents",
        "b_prop's pre-training documents",
        "CC BY-SA (Wikipedia); MS MARCO: non-commercial research",
        "b_prop",
        "wikipedia",
        "1. Wikipedia as .jsonl (id, url, title, text), or make data SET=msmarco-doc.\n"
        "2. Run make run PROJECT=b_prop CONFIG=<config> TASK=prepare, which writes them.",
    ),
    (
        "mrtydi/questions",
        "Mr. TyDi's training and development questions of all languages",
        "Apache 2.0; texts of Wikipedia CC BY-SA",
        "mrtydi",
        "train.jsonl",
        "1. https://github.com/castorini/mr.tydi has mrtydi-v1.1-<language>.tar.gz of each language.\n"
        "2. Run TASK=sets of ccp with sets.part=train, then dev, for each, and join the files as the"
        " card of ccp says.",
    ),
    (
        "contriever/questions",
        "contriever's questions with passages",
        "those of MS MARCO, Mr. TyDi and FiQA",
        "contriever",
        "msmarco.jsonl",
        "1. Write contriever/{msmarco,mrtydi,fiqa}.jsonl in DPR's layout from those sets, and"
        " msmarco_mined.jsonl with TASK=mine.\n"
        "2. Token shards of Wikipedia and CC-Net: TASK=tokenize. The card of contriever has both.",
    ),
    (
        "msmarco/tevatron",
        "MS MARCO's training queries with passages, in Tevatron's layout",
        _MARCO_TERMS,
        "msmarco",
        "train.jsonl",
        "1. Get Tevatron/msmarco-passage of the hub.\n"
        "2. Put its training part as msmarco/train.jsonl (query, positive_passages,"
        " negative_passages)." + _UNCHECKED,
    ),
    (
        "oxford_wordnet",
        "definitions of Oxford's dictionary and WordNet (Ishiwatari et al. 2019)",
        "Oxford's part may not be passed on",
        ".",
        "oxford_wordnet.csv",
        "1. Get the files of arXiv 1811.00266.\n"
        "2. Join them as oxford_wordnet.csv in UTF-16: entry, tab, definitions." + _UNCHECKED,
    ),
    *(
        (name, title, licence, name, holds, steps)
        for name, title, licence, holds, steps in (
            (
                "unifiedqa",
                "UnifiedQA's sets as text to text",
                "those of the original sets, see https://github.com/allenai/unifiedqa",
                ".",
                "1. gsutil -m cp -r gs://unifiedqa/data/<set> unifiedqa/ for the sets that the config"
                " names.\n2. Each has train.tsv, dev.tsv and test.tsv.",
            ),
            (
                "crossfit",
                "CrossFit's few-shot tasks",
                "those of the original sets, see https://github.com/INK-USC/CrossFit",
                ".",
                "1. Run tasks/_build_gym.py --build --n_proc=10, then --verify, of"
                " https://github.com/INK-USC/CrossFit (about three hours).\n"
                "2. Move its folder data to crossfit.",
            ),
            (
                "mrqa",
                "MRQA's few-shot splits of Splinter",
                "those of the original sets",
                "squad",
                "1. https://github.com/oriram/splinter links mrqa-few-shot.zip.\n"
                "2. Unpack it to mrqa: mrqa/squad, ...",
            ),
        )
    ),
    (
        "mirror_corpus_supervised",
        "Amazon's questions and answers, one pair a line",
        "research, see https://jmcauley.ucsd.edu/data/amazon/qa",
        "mirror_corpus_supervised",
        "amazon_qa_pairs_1172000.txt",
        "1. data/mirror_corpus_supervised/README.md of https://github.com/cambridgeltl/mirror-bert"
        " links the file.\n2. Put it into mirror_corpus_supervised.",
    ),
    (
        "multisimlex",
        "Multi-SimLex, English",
        "see https://multisimlex.com",
        "mirror_bert",
        "multisimlex_en.csv",
        "1. Get the scores at https://multisimlex.com.\n"
        "2. Write mirror_bert/multisimlex_en.csv with the columns word1, word2, score."
        + _UNCHECKED,
    ),
    (
        "moe_embeddings",
        "pairs of co-cited abstracts in five domains",
        "see the hub",
        "moe_embeddings",
        "copd",
        "1. The hub's organisation GleghornLab has a set for each domain.\n"
        "2. Put its parquet files into moe_embeddings/{copd,cvd,skincancer,parasitic,autoimmune}."
        + _UNCHECKED,
    ),
    (
        "chatgpt_triplets",
        "MultiCSR's triplets of ChatGPT",
        "OpenAI's terms for the texts",
        ".",
        "chatgpt_triplets.csv",
        "The triplets are not released: write chatgpt_triplets.csv (sent0, sent1, hard_neg) with a"
        " model of your own, TASK=generate.",
    ),
    *(
        (
            f"nv_embed/{folder}",
            f"nv_embed's training sets, {title}",
            "those of the sets, see the card of nv_embed",
            folder,
            ".",
            f"1. Get each set that configs/nv_embed/paper.yaml names below {folder}.\n2. {step}",
        )
        for folder, title, step in (
            ("mined", "with mined negatives", "Run TASK=mine of nv_embed, which writes the files."),
            ("naive", "with random negatives", "Run TASK=mine as paper_naive says."),
            ("classification", "classes", "Write JSON lines of text and label."),
            ("clustering", "clusters", "Write JSON lines of text and label."),
        )
    ),
    (
        "super_glue",
        "SuperGLUE's CB, BoolQ and WiC",
        "those of the original sets, see https://super.gluebenchmark.com/tasks",
        "super_glue",
        "CB",
        "1. Download the tasks at https://super.gluebenchmark.com/tasks.\n"
        "2. Unpack them to super_glue/{CB,BoolQ,WiC}.",
    ),
    (
        "rankgen",
        "RankGen's triples of PG-19",
        "PG-19: Apache 2.0; texts of Project Gutenberg",
        "rankgen",
        "train.jsonl",
        "1. PG-19 (11 GB) is in gs://deepmind-gutenberg, see https://github.com/google-deepmind/pg19.\n"
        "2. Run TASK=generate of rankgen with a language model; the official repository"
        " (martiansideofthemoon/rankgen) offers the paper's own triples.",
    ),
    (
        "rtd",
        "triplets and captions that RTD trains on",
        "see the official repository; captions of CC3M: Google's terms",
        "rtd",
        "LLM_triplets.json",
        "1. LLM_triplets.json: the official repository, or TASK=triplets of rtd.\n"
        "2. captions.txt: one caption of CC3M a line." + _UNCHECKED,
    ),
    (
        "trippy",
        "TripPy's table of MultiWOZ 2.1",
        "Apache 2.0",
        "trippy",
        "multiwoz21.json",
        "1. Get TripPy of Heinrich Heine University's GitLab (dsml/trippy-public).\n"
        "2. Its dataset_config/multiwoz21.json goes to trippy." + _UNCHECKED,
    ),
    *(
        (
            f"space2/{name}",
            f"dialogues of the semantic trees, {name}",
            "code MIT; dialogues have the licences of their sources",
            name,
            ".",
            "1. space-2 of https://github.com/AlibabaResearch/DAMO-ConvAI names the data of its"
            " fine-tuning.\n"
            f"2. Lay them out as {name}/<corpus>/train.json." + _UNCHECKED,
        )
        for name in ("intents-trees", "slots-trees")
    ),
    (
        "vacancysbert",
        "job adverts",
        "not released; your own",
        "vacancysbert",
        "train.jsonl",
        "The paper's adverts are not released: write train.jsonl, dev.jsonl and test.jsonl of your own"
        " as the card of vacancysbert says, or use CONFIG=paper_esco.",
    ),
    (
        "i2e",
        "Image-to-Entities",
        "not released; your own",
        "i2e",
        "i2e.jsonl",
        "The paper's billion images are not released: TASK=build of mofi writes i2e.jsonl and"
        " entities.tsv from your images with alt-texts.",
    ),
    (
        "close/style",
        "sentences that close trains a style on",
        "your own",
        ".",
        "style.txt",
        "Write one sentence a line, or run TASK=generate of close.",
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
            *(
                RemoteFile(
                    f"{_SENTEVAL}/msr_paraphrase_{part}.txt", f"sha256:{_MRPC_DIGESTS[part]}"
                )
                for part in ("train", "test")
            ),
            RemoteFile(
                "https://dl.fbaipublicfiles.com/glue/data/mrpc_dev_ids.tsv",
                f"sha256:{_MRPC_DIGESTS['dev_ids']}",
            ),
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
                RemoteFile(f"{_MARCO}/{file}", f"md5:{md5}", f"{part}.{kind}.gz")
                for part, files in _DOCUMENT_FILES.items()
                for kind, (file, md5) in files.items()
            ),
            RemoteFile(
                f"{_MARCO}/msmarco-test2019-queries.tsv.gz",
                f"md5:{_DL_TRACKS[2019][0]}",
                "dl19.queries.gz",
            ),
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
    for year, (queries, judgements) in _DL_TRACKS.items():
        yield OfficialSet(
            f"trec-dl-{year}",
            f"judged queries of TREC Deep Learning {year} over MS MARCO's passages",
            _MARCO_TERMS,
            0.3,
            "trec_passages",
            (
                RemoteFile(
                    f"{_MARCO}/msmarco-test{year}-queries.tsv.gz", f"md5:{queries}", "queries.gz"
                ),
                RemoteFile(
                    f"https://trec.nist.gov/data/deep/{year}qrels-pass.txt",
                    f"md5:{judgements}",
                    "qrels",
                ),
            ),
            needs=("beir/msmarco",),
        )
    yield OfficialSet(
        "wikitext-103",
        "WikiText-103, raw",
        "CC BY-SA (Wikipedia)",
        192,
        "unpack_inside",
        (RemoteFile("https://wikitext.smerity.com/wikitext-103-raw-v1.zip"),),
        holds="wiki.train.raw",
        folder="wikitext-103-raw",
    )
    yield OfficialSet(
        "speech_commands",
        "Speech Commands V2",
        "CC BY 4.0",
        2430,
        files=(
            RemoteFile(
                "https://storage.googleapis.com/download.tensorflow.org/data/"
                "speech_commands_v0.02.tar.gz",
                "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
            ),
        ),
        holds="validation_list.txt",
        folder="speech_commands_v0.02",
    )
    yield OfficialSet(
        "wordnet",
        "WordNet 3.0",
        "WordNet 3.0 licence, see https://wordnet.princeton.edu/license-and-commercial-use",
        12,
        files=(RemoteFile("https://wordnetcode.princeton.edu/3.0/WNdb-3.0.tar.gz"),),
        holds="dict",
    )
    yield OfficialSet(
        "fasttext",
        "two million word vectors of Common Crawl",
        "see https://fasttext.cc/docs/en/english-vectors.html",
        1530,
        files=(
            RemoteFile(
                "https://dl.fbaipublicfiles.com/fasttext/vectors-english/crawl-300d-2M.vec.zip"
            ),
        ),
        holds="crawl-300d-2M.vec",
        folder="vacancysbert",
    )
    for name, title, licence, folder, holds, steps in _BY_HAND:
        yield OfficialSet(name, title, licence, None, holds=holds, folder=folder, steps=steps)
