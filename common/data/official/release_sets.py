"""Records of sets that papers keep in their repositories, each at one commit.

SHA-256 sums are those of the files at that commit; files of more than 4 MB have none here.
"""

from collections.abc import Iterable, Iterator

from common.data.official.records import OfficialSet, RemoteFile

_RAW = "https://raw.githubusercontent.com"
_COCOSODA = (
    f"{_RAW}/DeepSoftwareAnalytics/CoCoSoDa/2f2bf8e7994acef846ede7c1078a0b18bc4154d9/dataset"
)
_COSQA = f"{_RAW}/Jun-jie-Huang/CoCLR/14ebcacf9e9bc3e7109102632bc63047876f27d2/data/search"
_FACTOR = f"{_RAW}/AI21Labs/factor/ee9de30abf28e94b163167dc41ad51fbbdb48c32/data"
_MIRROR = (
    f"{_RAW}/cambridgeltl/mirror-bert/8b6b9de97f6e9ba62310949240f1e08556887784/data/mirror_corpus"
)
_WIKIDES = f"{_RAW}/declare-lab/WikiDes/13d9a3a87f030fee5ef26047d5a9d2ebe472470a/dataset"
_SEARCH = (
    f"{_RAW}/yxuansu/Contrastive_Search_Is_What_You_Need/542d6ecd7b99f3bc04a514d89b99bbfcc707bbb4"
    "/data"
)
# CodeSearchNet's own addresses answer 403 since April 2023 (microsoft/CodeXGLUE, issue 156); this
# is the copy of CodeXGLUE's authors
_CODE_SEARCH_NET = "https://zenodo.org/record/7857872/files"

_LISTS = {  # language: MB of the archive, SHA-256 of its lists
    "ruby": (
        112,
        {
            "train": "88b33cf949945809b99cf6c12c16fe1a6e968ef0523bdce1ed2af22e3a6bdb02",
            "valid": "4587b58c9419e456d89afc9c408eb8c27df998ccd099e767af5195cb97a1f8f6",
            "test": "c48697f5648c8b52961504d018e5eba15b33534e10b6c5566855ba407121c766",
            "codebase": "6d09bf0ef452351415dde0ee97725b1fb983189f2c5bb90bc1ea1f70ef9bb368",
        },
    ),
    "javascript": (
        1665,
        {
            "valid": "c49891e1a603afcad545916a862e5a7a81206c609f455d91bdcae093f7c77d69",
            "test": "0bb6fe6858b6d87acfc085e6875a07525e64c60f8d52d4b589d045c3f7b27818",
            "codebase": "b98ecb4ef5611c8fec45a2d8ef971c538756b845b89b12ab60930465d2c00e47",
        },
    ),
    "java": (
        1061,
        {
            "valid": "bdbcba10162f3da001d96d0b41e5c272e1f954d58150f0e8c33300713c8401e5",
            "test": "1c7ee7c3bc0681a450b963f4132bf4f3cbe8a9620c5bad078685f3d3eaf00981",
        },
    ),
    "go": (
        488,
        {
            "valid": "dd12be93cd9c92d48b8ee7674ff747926c30f5e82d6b13e7c3d11ed4e5bfb6a0",
            "test": "1e80efca30dde835ef5f88dda268cba16a524a8a38fb1dfd9103c32ac467ece2",
            "codebase": "0d67f389f5ede5955d0b595f20eecad6639171fd338a6730ed6c978d9029b5b5",
        },
    ),
    "php": (
        852,
        {
            "valid": "33ed5c5d05d2f4e50ad597689c4057c954b5cf79e29aebac5012510e96375fcf",
            "test": "00de5b6b182a092b4f6bb4febc094f982c20bd250235059e27be4e178b00e670",
        },
    ),
    "python": (
        941,
        {
            "valid": "434017418bf412bd165d198edf4d3e1b21af3d367eec57cd78f0db8cc12b05b3",
            "test": "cea313d080285e38aac49ef182cc345be24f8f0c13c1b7d4c959eb31e0e8a7fa",
        },
    ),
}
_PHASE_2 = {
    "test_para_256_diff": "8fcc3ac9336e546d72615849bab53ef9315e8c01b3ce61d1b2ca3d0cbd2a41b3",
    "test_para_256_random": "7718ffab5eb2c33770eb89d78c63660a97fbf6dfc24171ddd03891ff0f231df4",
    "training_para_256_diff": "75966c9a546bfca69673f75dadf4d5287ec6d811a3021661a8984cb3226f1838",
    "training_para_256_random": "5e0b7120ea716b32edd22582c9826811297e9e332856d4b9c24f5e3c00708396",
    "validation_para_256_diff": "52a6974fcb566ff1318fe3e9e4949be4199fbf7b4f71d235b2400e0225a8eb04",
    "validation_para_256_random": "970dafddfd66a1e95dd3cfddd6e6a0ebb82ba44eb95e5991b9624a50cde6f5ae",
}
_SHOTS = {
    "one-shot/xsum_train_one-shot-1": (
        "526d83fda81fc936dd65dc919a8ef94880ccf7ea61b5e0a994694b95bfb8c594"
    ),
    "one-shot/xsum_train_one-shot-2": (
        "4c4d8c887bc4a9f8464731c32d5e535dd40c5714ecd57cc503b84701b0b858ca"
    ),
    "one-shot/xsum_train_one-shot-3": (
        "e28d8a86491521827f2a56e99f0b4a0987cc81da6ee00339d01f80f4052ba7a4"
    ),
    "two-shot/xsum_train_two-shot-1": (
        "89da0ce9308b176caf7aa09bb37a100e70053dd778b00facc0a88bdc41f42d16"
    ),
    "two-shot/xsum_train_two-shot-2": (
        "720b6e865cf6357320bf35833dd3a042f81cdeeb8afe8e29f57ed13d63551f2f"
    ),
    "two-shot/xsum_train_two-shot-3": (
        "613793a4f57dfb92856effd5053b1b59c8d96ca1e92372efa74e470c6e3471ab"
    ),
}


def release_sets() -> Iterator[OfficialSet]:
    """All records of this module."""
    for language, (megabytes, digests) in _LISTS.items():
        lists = (
            _file(f"{_COCOSODA}/{language}/{part}.txt", digests.get(part))
            for part in ("train", "valid", "test", "codebase")
        )
        yield OfficialSet(
            f"code_search_net/{language}",
            f"functions of CodeSearchNet, {language}, and the lists of GraphCodeBERT's search",
            "each function has the licence of its repository",
            megabytes,
            "code_search_net",
            (RemoteFile(f"{_CODE_SEARCH_NET}/{language}.zip"), *lists),
            holds="codebase.txt",
        )
    names = ", ".join(f"code_search_net/{language}" for language in _LISTS)
    yield OfficialSet(
        "csn",
        "CodeSearchNet's pairs as cocosoda reads them",
        "each function has the licence of its repository",
        None,
        holds="ruby",
        folder="CSN",
        steps=(
            f"1. Run make data SET=<language> for each of {names}.\n"
            "2. Run make run PROJECT=cocosoda CONFIG=paper TASK=prepare"
            " prepare.input=<data root>/code_search_net prepare.output=<data root>/CSN."
        ),
    )
    yield _kept(
        "cosqa",
        "CoSQA: web queries and Python functions",
        "Computational Use of Data Agreement (C-UDA)",
        None,
        _COSQA,
        (
            (
                "code_idx_map.txt",
                "be8a910ca03cb9f1b38a0eba6dc8109eeb8040a40aaba1a467a7b8426d261f3f",
            ),
            (
                "cosqa-retrieval-dev-500.json",
                "ccdfffee7ae1f1cf1a0406566a61c984f4fbce678c8ea108eedd03d11bff9518",
            ),
            (
                "cosqa-retrieval-test-500.json",
                "27d3552b2e7dd86cf9f9a0b3c135e6777d4faafa9c29fb1b9b01ece945974ad6",
            ),
            ("cosqa-retrieval-train-19604.json", None),
        ),
    )
    yield _kept(
        "factor",
        "FACTOR's completions of news, Wikipedia and expert answers",
        "MIT; news: ODC-By 1.0 and Common Crawl's terms of use",
        None,
        _FACTOR,
        (
            (
                "news_factor.csv",
                "f4f3110a66bfca3a1decb88f14ce55b4e9656be80894bcd94216cc2c61be8260",
            ),
            (
                "expert_factor.csv",
                "39cbceba9b43e713069a155e2028f6a2335b792983110b935a71ddb065766bde",
            ),
            ("wiki_factor.csv", None),
        ),
    )
    yield _kept(
        "mirror_corpus",
        "Mirror-BERT's sentences of STS-B and English words",
        "code MIT; texts have the licences of their sources",
        0.7,
        _MIRROR,
        (
            (
                "stsbenchmark_train_10k_sents_random_sampled.txt",
                "f9d5fa5efa0957df52634dde3a093ad5f5c6e0dff7e2b1fbfcbd9382e5898d3f",
            ),
            (
                "en_words_top_10k.txt",
                "9c965d384526facc59260e94f8ccff1582633fa385004abe1455ed457062acbc",
            ),
        ),
    )
    yield OfficialSet(
        "wikides",
        "WikiDes: paragraphs, descriptions and candidates",
        "MIT; texts of Wikipedia CC BY-SA",
        None,
        "wikides",
        (
            *(
                _file(f"{_WIKIDES}/phase2/generated_{name}.json", digest)
                for name, digest in _PHASE_2.items()
            ),
            RemoteFile(f"{_WIKIDES}/phase1/diff/diff_256.zip"),
            RemoteFile(f"{_WIKIDES}/phase1/random/random_256.zip"),
        ),
        holds="phase1/diff/test_para_256.json",
    )
    yield _kept(
        "xsum",
        "XSum's test part and the shots of contrastive search's release",
        "none stated; articles of the BBC",
        None,
        f"{_SEARCH}/xsum",
        (("xsum_test.json", None), *((f"{name}.json", digest) for name, digest in _SHOTS.items())),
    )
    for name, title, licence, holds in (
        (
            "wit",
            "texts of Wikipedia captions (WIT) by language",
            "CC BY-SA (Wikipedia)",
            "wit_test_set.json",
        ),
        (
            "translation",
            "IWSLT14 German to English",
            "none stated; talks of TED",
            "iwslt14/de-to-en/test.json",
        ),
    ):
        yield OfficialSet(
            f"contrastive_search/{name}",
            f"{title}, as contrastive search's release has them",
            licence,
            None,
            "unpack_inside",
            (RemoteFile(f"{_SEARCH}/{name}.zip"),),
            holds=holds,
            folder=name,
        )


def _file(url: str, digest: str | None, name: str | None = None) -> RemoteFile:
    return RemoteFile(url, None if digest is None else f"sha256:{digest}", name)


def _kept(
    name: str,
    title: str,
    licence: str,
    megabytes: float | None,
    address: str,
    files: Iterable[tuple[str, str | None]],
) -> OfficialSet:
    """Files that are stored as they are; the first is the one that a finished set holds."""
    found = tuple(_file(f"{address}/{path}", digest, path) for path, digest in files)
    return OfficialSet(
        name, title, licence, megabytes, "keep", found, holds=str(found[0].file_name)
    )
