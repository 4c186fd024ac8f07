"""The records: sets of the paper configs, by name.

Addresses and checksums are those of the publishers' own pages or code, or of libraries that fetch
the same files, which are named; where none states a checksum, the command prints the file's SHA-256.
"""

from common.data.official.image_sets import image_sets
from common.data.official.pair_sets import pair_sets
from common.data.official.records import HubSource, OfficialSet, RemoteFile
from common.data.official.release_sets import release_sets
from common.data.official.text_sets import text_sets

_BEIR = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
_DPR = "https://dl.fbaipublicfiles.com/dpr"
_GLUE = "https://dl.fbaipublicfiles.com/glue/data"
_COCO = "http://images.cocodataset.org"
_LVIS = "https://dl.fbaipublicfiles.com/LVIS"
_OF_SOURCE = "that of the original set, see the wiki of beir-cellar/beir"

# name: (MD5 as the wiki of beir-cellar/beir lists it, MB)
_BEIR_SETS = {
    "trec-covid": ("ce62140cb23feb9becf6270d0d1fe6d1", 74),
    "nfcorpus": ("a89dba18a62ef92f7d323ec890a0d38d", 2.4),
    "nq": ("d4d3d2e48787a744b6f6e691ff534307", 498),
    "hotpotqa": ("f412724f78b0d91183a0e86805e16114", 654),
    "fiqa": ("17918ed23cd04fb15047f73e6c3bd9d9", 18),
    "arguana": ("8ad3e3c2a5867cdced806d6503f29b99", 3.8),
    "webis-touche2020": ("46f650ba5a527fc69e0a6521c5a23563", 227),
    "cqadupstack": ("4e41456d7df8ee7760a7f866133bda78", None),
    "quora": ("18fb154900ba42a600f84b839c173167", None),
    "dbpedia-entity": ("c2a39eb420a3164af735795df012ac2c", None),
    "scidocs": ("38121350fc3a4d2f48850f6aff52e4a9", None),
    "fever": ("5a818580227bfb4b35bb6fa46d9b6c03", None),
    "climate-fever": ("8b66f0a9126c521bae2bde127b4dc99d", None),
    "scifact": ("5f7d1de60b170fc8027bb7898e2efca1", 2.8),
}
_MR_TYDI = {
    "ar": "arabic",
    "bn": "bengali",
    "en": "english",
    "fi": "finnish",
    "id": "indonesian",
    "ja": "japanese",
    "ko": "korean",
    "ru": "russian",
    "sw": "swahili",
    "te": "telugu",
    "th": "thai",
}
_GLUE_FILES = {  # folder below glue_data: file at GLUE's address, MB, SHA-256
    "MNLI": (
        "MNLI.zip",
        313,
        "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633",
    ),
    "QNLI": (
        "QNLIv2.zip",
        11,
        "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5",
    ),
    "QQP": (
        "QQP-clean.zip",
        42,
        "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0",
    ),
    "RTE": (
        "RTE.zip",
        0.7,
        "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee",
    ),
    "SST-2": (
        "SST-2.zip",
        7.4,
        "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
    ),
    "STS-B": (
        "STS-B.zip",
        0.8,
        "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85",
    ),
    "CoLA": (
        "CoLA.zip",
        0.4,
        "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff",
    ),
    "WNLI": (
        "WNLI.zip",
        0.03,
        "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46",
    ),
}


def _beir(name: str, md5: str, megabytes: float | None) -> OfficialSet:
    return OfficialSet(
        f"beir/{name}",
        f"{name} of BEIR",
        _OF_SOURCE,
        megabytes,
        "unpack_inside",
        (RemoteFile(f"{_BEIR}/{name}.zip", f"md5:{md5}"),),
        holds="android/corpus.jsonl" if name == "cqadupstack" else "corpus.jsonl",
    )


def _records() -> list[OfficialSet]:
    return [
        *(_beir(name, md5, size) for name, (md5, size) in _BEIR_SETS.items()),
        OfficialSet(
            "beir/msmarco",
            "MS MARCO passages of BEIR, development queries also as queries.dev.jsonl",
            _OF_SOURCE,
            4108,
            "beir_with_dev_queries",
            (RemoteFile(f"{_BEIR}/msmarco.zip", "md5:444067daf65d982533ea17ebd59501e4"),),
        ),
        OfficialSet(
            "dpr/psgs_w100",
            "DPR's 21 million passages of the English Wikipedia of December 2018",
            "CC BY-SA (Wikipedia)",
            4700,
            "dpr_passages",
            (RemoteFile(f"{_DPR}/wikipedia_split/psgs_w100.tsv.gz"),),
        ),
        OfficialSet(
            "dpr/nq",
            "test questions of Natural Questions as DPR has processed their answers",
            f"{_DPR}/nq_license/LICENSE",
            1,
            "dpr_questions",
            (RemoteFile(f"{_DPR}/data/retriever/nq-test.qa.csv"),),
            holds="questions.jsonl",
            needs=("dpr/psgs_w100",),
        ),
        OfficialSet(
            "dpr/triviaqa",
            "test questions of TriviaQA in DPR's form",
            "see https://nlp.cs.washington.edu/triviaqa",
            2,
            "dpr_questions",
            (RemoteFile(f"{_DPR}/data/retriever/trivia-test.qa.csv.gz"),),
            holds="questions.jsonl",
            needs=("dpr/psgs_w100",),
        ),
        OfficialSet(
            "mkqa",
            "MKQA's 10,000 questions in 26 languages, with English answers",
            "CC BY-SA 3.0",
            12,
            "mkqa",
            (
                RemoteFile(
                    "https://github.com/apple/ml-mkqa/raw/main/dataset/mkqa.jsonl.gz",
                ),
            ),
            holds="questions.en.jsonl",
            needs=("dpr/psgs_w100",),
        ),
        *(
            OfficialSet(
                f"mrtydi/{code}",
                f"Mr. TyDi 1.1, {language}, test part",
                "Apache 2.0; texts of Wikipedia CC BY-SA",
                None,
                "mr_tydi",
                hub=(
                    HubSource(
                        "castorini/mr-tydi-corpus", (f"mrtydi-v1.1-{language}/corpus.jsonl.gz",)
                    ),
                    HubSource(
                        "castorini/mr-tydi", (f"mrtydi-v1.1-{language}/ir-format-data/*.test.txt",)
                    ),
                ),
            )
            for code, language in _MR_TYDI.items()
        ),
        *(
            OfficialSet(
                f"glue/{name}",
                f"{name} of GLUE",
                "that of the original set, see https://gluebenchmark.com/tasks",
                megabytes,
                "unpack_inside",
                (RemoteFile(f"{_GLUE}/{file}", f"sha256:{sha256}"),),
                holds="train.tsv",
                folder=f"glue_data/{name}",
            )
            for name, (file, megabytes, sha256) in _GLUE_FILES.items()
        ),
        OfficialSet(
            "simcse/wiki1m",
            "a million sentences of Wikipedia, as SimCSE draws them",
            "CC BY-SA (Wikipedia)",
            120,
            hub=(HubSource("princeton-nlp/datasets-for-simcse", ("wiki1m_for_simcse.txt",)),),
            holds="wiki1m_for_simcse.txt",
            folder=".",
        ),
        OfficialSet(
            "simcse/nli",
            "275,601 triplets of SNLI and MNLI, as SimCSE makes them",
            "those of SNLI (CC BY-SA 4.0) and MNLI",
            None,
            hub=(HubSource("princeton-nlp/datasets-for-simcse", ("nli_for_simcse.csv",)),),
            holds="nli_for_simcse.csv",
            folder=".",
        ),
        OfficialSet(
            "coco/annotations",
            "boxes, keypoints and captions of COCO 2017",
            "CC BY 4.0",
            253,
            "unpack_inside",
            (RemoteFile(f"{_COCO}/annotations/annotations_trainval2017.zip"),),
            holds="instances_val2017.json",
        ),
        *(
            OfficialSet(
                f"coco/{part}2017",
                f"{part} images of COCO 2017",
                "Flickr's terms of use, see https://cocodataset.org",
                megabytes,
                "unpack_inside",
                (RemoteFile(f"{_COCO}/zips/{part}2017.zip"),),
                holds=example,
            )
            for part, megabytes, example in (
                ("train", 19_300, "000000000009.jpg"),
                ("val", 816, "000000000139.jpg"),
            )
        ),
        *(
            OfficialSet(
                f"lvis/{part}",
                f"boxes and masks of LVIS 1.0, {part}",
                "CC BY 4.0",
                megabytes,
                "unpack",
                (RemoteFile(f"{_LVIS}/lvis_v1_{part}.json.zip"),),
                holds=f"lvis_v1_{part}.json",
                folder="lvis",
            )
            for part, megabytes in (("train", 350), ("val", 190))
        ),
        OfficialSet(
            "stop",
            "STOP: spoken commands with their parses",
            "https://dl.fbaipublicfiles.com/stop/LICENSE.txt",
            None,
            "unpack_inside",
            (RemoteFile("https://dl.fbaipublicfiles.com/stop/stop.tar.gz"),),
            holds="manifests",
        ),
        *_by_hand(),
        *image_sets(),
        *text_sets(),
        *pair_sets(),
        *release_sets(),
    ]


def _by_hand() -> list[OfficialSet]:
    """Sets behind an agreement, or that are lists of addresses."""
    return [
        OfficialSet(
            "imagenet",
            "ImageNet-1k of 2012",
            "non-commercial research, after registration",
            150_000,
            holds="train",
            steps=(
                "1. Register at https://image-net.org and accept the terms.\n"
                "2. Download ILSVRC2012_img_train.tar (MD5 1d675b47d978889d74fa0da5fadfb00e) and"
                " ILSVRC2012_img_val.tar (MD5 29b22e2961454d5413ddabcf34fc5622).\n"
                "3. Unpack them as imagenet/train/<synset>/*.JPEG and imagenet/val/<synset>/*.JPEG."
            ),
        ),
        *(
            OfficialSet(
                name,
                title,
                "Google's terms for the list; each image has the licence of its page",
                None,
                holds="00000.tar",
                steps=(
                    f"1. Download the list of addresses from {page}.\n"
                    f"2. Add the header '{header}' and fetch it with img2dataset into webdataset"
                    f" shards: {name}/00000.tar, ... For laclip and clip_baselines write images and"
                    f" {name}/{name}.csv (path,caption) instead.\n"
                    "3. Many addresses are gone by now: report how many images you got.\n"
                    f"4. LaCLIP's rewrites: the table 'Pre-computed Augmented Texts' of"
                    f" https://github.com/LijieFan/LaCLIP has {name}_{{chatgpt,bard,mscoco,human}}.txt,"
                    f" in the order of its {name}_original.csv."
                ),
            )
            for name, title, header, page in (
                (
                    "cc3m",
                    "Conceptual Captions",
                    "caption\turl",
                    "https://ai.google.com/research/ConceptualCaptions/download",
                ),
                (
                    "cc12m",
                    "Conceptual 12M",
                    "url\tcaption",
                    "https://storage.googleapis.com/conceptual_12m/cc12m.tsv",
                ),
            )
        ),
        OfficialSet(
            "common_voice",
            "Common Voice, English",
            "CC0; Mozilla Data Collective's terms forbid to pass the files on",
            None,
            holds="en/validated.tsv",
            steps=(
                "1. Accept the terms of Mozilla Data Collective, where"
                " https://commonvoice.mozilla.org/datasets leads, and download English.\n"
                "2. Unpack it, so that common_voice/en/validated.tsv and common_voice/en/clips are"
                " there."
            ),
        ),
        OfficialSet(
            "slurp",
            "SLURP: spoken commands",
            "texts CC BY 4.0, recordings CC BY-NC 4.0",
            None,
            holds="dataset",
            steps=(
                "1. Clone https://github.com/pswietojanski/slurp to slurp.\n"
                "2. Run its scripts/download_audio.sh."
            ),
        ),
        OfficialSet(
            "tvqa",
            "TVQA: questions about clips",
            "research, after a form for the frames",
            None,
            holds="tvqa_train.jsonl",
            steps=(
                "1. Download questions and subtitles from https://tvqa.cs.unc.edu to tvqa.\n"
                "2. Frames need the form on that page; TASK=features and TASK=objects of video_qa"
                " read them."
            ),
        ),
        OfficialSet(
            "gpr1200",
            "GPR1200: retrieval of 1,200 classes",
            "those of its six source sets",
            None,
            holds="images",
            folder="GPR1200",
            steps=(
                "1. Follow the README of https://github.com/Visual-Computing/GPR1200.\n"
                "2. Unpack its images to GPR1200/images."
            ),
        ),
    ]


SETS: dict[str, OfficialSet] = {record.name: record for record in _records()}
