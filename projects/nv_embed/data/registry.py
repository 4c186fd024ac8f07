"""Instructions, layouts and kinds of public training sets and MTEB tasks.

Source: Lee et al. 2024, "NV-Embed", tables 12 and 13 (which sets and tasks there are), arXiv
2405.17428; Muennighoff et al. 2023, "MTEB", arXiv 2210.07316. The wording is this repository's own.
"""

from dataclasses import dataclass

from common.config import UserError, nearest
from common.data.retrieval.readers import Layout
from common.data.retrieval.records import TaskKind


@dataclass(frozen=True)
class KnownSet:
    """How a training set is read and used."""

    kind: TaskKind
    layout: Layout
    instruction: str
    symmetric: bool = False


def _retrieval(layout: Layout, instruction: str, *, symmetric: bool = False) -> KnownSet:
    return KnownSet("retrieval", layout, instruction, symmetric)


def _classes(instruction: str) -> KnownSet:
    return KnownSet("classification", "labelled", instruction, symmetric=True)


def _clusters(instruction: str) -> KnownSet:
    return KnownSet("clustering", "labelled", instruction, symmetric=True)


_QA = "Find passages that answer the question"
_CLAIM = "Find documents that support or refute the claim"
_STS = KnownSet("sts", "sts", "Find text of the same meaning", symmetric=True)

TRAINING_SETS: dict[str, KnownSet] = {
    # bundled with this repository, see data/README.md
    "wikides": _retrieval("records", "Find the short description of the article"),
    "nli": _retrieval("nli", "Find a sentence that follows from the premise"),
    "snips": _classes("Classify the request to a voice assistant"),
    "banking77": _classes("Classify the request of a bank customer"),
    "stsb": _STS,
    # retrieval
    "msmarco": _retrieval("beir", "Find passages that answer the web search query"),
    "hotpotqa": _retrieval("beir", "Find documents that help to answer the multi-hop question"),
    "nq": _retrieval("dpr", f"{_QA}, from Wikipedia"),
    "paq": _retrieval("pairs", f"{_QA}, from Wikipedia"),
    "stackexchange": _retrieval("pairs", "Find the question body or answer of the forum title"),
    "all_nli": _retrieval("pairs", "Find a sentence that follows from the premise"),
    "squad": _retrieval("squad", f"{_QA}, from Wikipedia"),
    "arguana": _retrieval("beir", "Find documents that refute the claim"),
    "bioasq": _retrieval("beir", "Find abstracts that answer the biomedical question"),
    "fiqa": _retrieval("beir", "Find replies that answer the financial question"),
    "fever": _retrieval("beir", _CLAIM),
    "hover": _retrieval("beir", _CLAIM),
    "scifact": _retrieval("beir", "Find abstracts that support or refute the scientific claim"),
    "nfcorpus": _retrieval("beir", "Find documents that answer the question on nutrition"),
    "miracl": _retrieval("tevatron", f"{_QA}, from Wikipedia"),
    "mrtydi": _retrieval("tevatron", f"{_QA}, from Wikipedia"),
    "synthetic_pairs": _retrieval("records", "Find text that fits the query"),
    "quora": _retrieval("pairs", "Find questions that are duplicates", symmetric=True),
    # classification
    "amazon_reviews": _classes("Classify the product review by its rating"),
    "amazon_counterfactual": _classes("Classify the comment as counterfactual or not"),
    "amazon_polarity": _classes("Classify the product review as positive or negative"),
    "emotion": _classes("Classify the emotion of the message"),
    "imdb": _classes("Classify the film review as positive or negative"),
    "mtop_domain": _classes("Classify the domain of the assistant request"),
    "mtop_intent": _classes("Classify the intent of the assistant request"),
    "toxic_conversations": _classes("Classify the comment as toxic or not"),
    "tweet_sentiment": _classes("Classify the sentiment of the tweet"),
    "massive_scenario": _classes("Classify the scenario of the user request"),
    "massive_intent": _classes("Classify the intent of the user request"),
    # clustering
    "arxiv": _clusters("Group papers by topic, from title and abstract"),
    "biorxiv": _clusters("Group biology papers by topic, from title and abstract"),
    "medrxiv": _clusters("Group medical papers by topic, from title and abstract"),
    "twentynewsgroups": _clusters("Group news posts by topic"),
    "reddit": _clusters("Group posts by community"),
    "stackexchange_titles": _clusters("Group questions by community"),
    # STS
    "sts12": _STS,
    "sts22": _STS,
    "sts_benchmark": _STS,
}

_FORUM = "Find questions of the forum that are duplicates"
_FORUMS = (
    "Android",
    "English",
    "Gaming",
    "Gis",
    "Mathematica",
    "Physics",
    "Programmers",
    "Stats",
    "Tex",
    "Unix",
    "Webmasters",
    "Wordpress",
)
_MTEB_RETRIEVAL = {
    "ArguAna": "Find documents that refute the claim",
    "ClimateFEVER": "Find documents that support or refute the claim on climate",
    "CQADupstackRetrieval": _FORUM,
    "DBPedia": "Find entity descriptions that fit the query",
    "FEVER": _CLAIM,
    "FiQA2018": "Find replies that answer the financial question",
    "HotpotQA": "Find documents that help to answer the multi-hop question",
    "MSMARCO": "Find passages that answer the web search query",
    "NFCorpus": "Find documents that answer the question on nutrition",
    "NQ": f"{_QA}, from Wikipedia",
    "QuoraRetrieval": "Find questions that are duplicates",
    "SCIDOCS": "Find abstracts that the paper of this title cites",
    "SciFact": "Find abstracts that support or refute the scientific claim",
    "Touche2020": "Find arguments on the debated question",
    "TRECCOVID": "Find documents that answer the question on COVID-19",
}
_MTEB_OTHER = {
    "Classification": {
        "AmazonCounterfactualClassification": "Classify the comment as counterfactual or not",
        "AmazonPolarityClassification": "Classify the product review as positive or negative",
        "AmazonReviewsClassification": "Classify the product review by its rating",
        "Banking77Classification": "Classify the request of a bank customer",
        "EmotionClassification": "Classify the emotion of the message",
        "ImdbClassification": "Classify the film review as positive or negative",
        "MassiveIntentClassification": "Classify the intent of the user request",
        "MassiveScenarioClassification": "Classify the scenario of the user request",
        "MTOPDomainClassification": "Classify the domain of the assistant request",
        "MTOPIntentClassification": "Classify the intent of the assistant request",
        "ToxicConversationsClassification": "Classify the comment as toxic or not",
        "TweetSentimentExtractionClassification": "Classify the sentiment of the tweet",
    },
    "Clustering": {
        "ArxivClusteringP2P": "Group papers by topic, from title and abstract",
        "ArxivClusteringS2S": "Group papers by topic, from the title",
        "BiorxivClusteringP2P": "Group biology papers by topic, from title and abstract",
        "BiorxivClusteringS2S": "Group biology papers by topic, from the title",
        "MedrxivClusteringP2P": "Group medical papers by topic, from title and abstract",
        "MedrxivClusteringS2S": "Group medical papers by topic, from the title",
        "RedditClustering": "Group posts by community, from the title",
        "RedditClusteringP2P": "Group posts by community, from title and text",
        "StackExchangeClustering": "Group questions by community, from the title",
        "StackExchangeClusteringP2P": "Group questions by community, from the text",
        "TwentyNewsgroupsClustering": "Group news posts by topic",
    },
    "PairClassification": dict.fromkeys(
        ("SprintDuplicateQuestions", "TwitterSemEval2015", "TwitterURLCorpus"),
        "Find text of the same meaning",
    ),
    "Reranking": {
        "AskUbuntuDupQuestions": _FORUM,
        "MindSmallReranking": "Find news that a reader of this headline reads next",
        "SciDocsRR": "Find titles of related papers",
        "StackOverflowDupQuestions": _FORUM,
    },
    "STS": dict.fromkeys(
        (
            "BIOSSES",
            "SICK-R",
            "STS12",
            "STS13",
            "STS14",
            "STS15",
            "STS16",
            "STS17",
            "STS22",
            "STSBenchmark",
        ),
        _STS.instruction,
    ),
    "Summarization": {"SummEval": "Find summaries of the same content"},
}
MTEB_TASKS: dict[str, dict[str, str]] = {"Retrieval": _MTEB_RETRIEVAL, **_MTEB_OTHER}


def known_set(name: str) -> KnownSet:
    """Entry of `TRAINING_SETS`.

    Raises:
        UserError: no such set, with the nearest name.
    """
    if name not in TRAINING_SETS:
        raise UserError(f"unknown training set '{name}'{nearest(name, TRAINING_SETS)}")
    return TRAINING_SETS[name]


def mteb_prompts() -> dict[str, str]:
    """Instruction of every English MTEB task under the adapter's keys.

    Retrieval and reranking instruct queries only, but for the symmetric duplicate searches. The
    twelve forums of CQADupstackRetrieval have keys of their own: MTEB encodes each as a task, and
    gives their average the common name.

    >>> len({key.removesuffix("-query") for key in mteb_prompts()})
    68
    """
    symmetric = (
        "QuoraRetrieval",
        "CQADupstackRetrieval",
        "AskUbuntuDupQuestions",
        "StackOverflowDupQuestions",
    )
    prompts = {}
    for kind, tasks in MTEB_TASKS.items():
        for task, instruction in tasks.items():
            one_sided = kind in ("Retrieval", "Reranking") and task not in symmetric
            prompts[f"{task}-query" if one_sided else task] = instruction
    return prompts | {f"CQADupstack{name}Retrieval": _FORUM for name in _FORUMS}
