"""`check` builds the model of every paper config without its weights and names what is missing."""

import pytest

from common.config import config_names
from common.engine.check import inspect
from tests.contract.projects import PROJECTS, project_param

# what the papers say of their models: negatives of a query, or the beginning of another row
PAPERS = {
    "b_prop": {"paper": "1", "paper_finetune_marco": "11"},
    "cacr": {
        "paper": "127",
        "paper_imagenet": "4,095",
        "paper_imagenet_vitb16": "4,095",
        "paper_shift": "65,791",
        "paper_shift_webvision": "65,791",
        "paper_stl10": "127",
    },
    "ccp": {"paper": "8,190", "paper_nq": "95"},
    "clip_baselines": {"paper": "4,095", "paper_yfcc_vits": "4,095"},
    "coconut": {"paper": "31", "paper_slurp6": "31", "paper_fsc6_sequence_kd": "31"},
    "cocosoda": {"paper": "1,151", "paper_finetune": "127"},
    "contrastive_search": {"paper": {"parameters": "124"}},
    "contriever": {"paper": "131,072", "paper_msmarco": "2,047"},
    "cwcl": {"paper": "15,999", "paper_speech": "799"},
    "dcl": {"paper": "510", "paper_moco": "65,536", "paper_nnclr": "511"},
    "debcse": {
        "paper": {"negatives per query": "127", "samples": "1,000,000"},
        "paper_simcse": "63",
    },
    "dse": {"paper": {"parameters": "342.48 M"}, "paper_allnli": {"parameters": "342.48 M"}},
    "esimcse": {"paper": "223", "paper_roberta_large": "191"},
    "hydra": {"paper": {"negatives per query": "207", "steps": "29,250"}},
    "laclip": {"paper": "8,191", "paper_laion400m_b32": "32,767"},
    "mclrec": {"paper": "510"},
    "mirror_bert": {"paper": "398", "paper_word": "398"},
    "moe_embeddings": {"paper": {"parameters": "383.", "negatives per query": "15"}},
    "mofi": {"paper": {}},
    "multicsr": {"paper": {"parameters": "218.37 M (109.48 M"}},
    "nv_embed": {"paper": {"negatives per query": "1,023", "steps": "38,000"}},
    "rankgen": {"paper": {"negatives per query": "8,191", "parameters": "110."}, "paper_xl": {}},
    "rtd": {"paper_b32": "510"},
    "sepclr": {"paper": {"steps": "24,250", "negatives per query": "511"}},
    "simcse": {"paper": "63", "paper_sup": "1,023"},
    "trend": {"paper": "0"},
    "vacancysbert": {"paper": "255", "paper_asymmetric": "2,047"},
    "whitenedcse": {"paper": "127", "paper_bert_large": "127"},
}
KNOWN = [(project, name) for project, names in PAPERS.items() for name in names]
ALL = [(p, n) for p in PROJECTS for n in config_names(p) if n.startswith("paper")]
FIRST = dict(reversed([*KNOWN, *ALL]))


@pytest.mark.parametrize(
    ("project", "name"),
    [
        project_param(project, name, quick=FIRST[project] == name)
        for project, name in dict.fromkeys([*KNOWN, *ALL])
    ],
)
def test_a_paper_s_model_is_built_and_what_is_missing_is_named(project, name, tmp_path):
    rows = inspect(project, name, [f"data.root={tmp_path}"])
    assert " M" in rows["parameters"] or " B" in rows["parameters"]
    assert int(rows["negatives per query"].replace(",", "")) >= 0
    assert any("MISSING" in value for value in rows.values())
    said = PAPERS.get(project, {}).get(name, {})
    for row, value in ({"negatives per query": said} if isinstance(said, str) else said).items():
        equal = rows[row] == value if row != "parameters" else rows[row].startswith(value)
        assert equal, f"{row}: {rows[row]}"


def test_every_project_has_a_paper_config():
    assert {project for project, _ in ALL} == set(PROJECTS)
    assert set(KNOWN) <= set(ALL)
