"""Every config of every project loads against its schema."""

import json

import pytest
from omegaconf import OmegaConf

from common.config import CONFIG_DIR, UserError, _chain, config_names, config_path, leaf_keys, load
from common.registry import config_class, list_projects

CASES = [(p, c) for p in list_projects() for c in config_names(p)]


def test_something_was_found():
    assert len(list_projects()) >= 1
    assert len(CASES) >= 3


@pytest.mark.parametrize(("project", "config"), CASES)
def test_config_loads(project, config):
    cfg = load(config_class(project), project, config)
    assert cfg.trainer.max_steps is not None or cfg.trainer.max_epochs is not None


@pytest.mark.parametrize("project", list_projects())
def test_misspelt_key_is_refused_with_the_right_name(project):
    with pytest.raises(UserError, match=r"unknown key 'optim.lrr'.*did you mean 'optim.lr'"):
        load(config_class(project), project, "smoke", ["optim.lrr=1"])


@pytest.mark.parametrize("project", list_projects())
def test_project_has_the_named_configs(project):
    names = set(config_names(project))
    assert {"smoke", "mini"} <= names
    assert any(name.startswith("paper") for name in names)
    assert (CONFIG_DIR / project / "compare.yaml").is_file()


@pytest.mark.parametrize("project", list_projects())
def test_arms_of_the_comparison_are_valid_overrides(project):
    from common.engine.comparison.spec import claims_of, default_arms, read_comparisons

    for spec in read_comparisons(project):
        assert len(spec.arms) >= 2
        claims = claims_of(spec)
        assert [claim for claim in claims if not claim.appendix]
        for overrides in spec.arms.values():
            words = [f"{k}={json.dumps(v)}" for k, v in overrides.items()]  # as `make compare` does
            load(config_class(project), project, spec.base, words)
        usual = {*default_arms(spec), *spec.baselines}
        assert all(set(claim.arms) <= usual for claim in claims if not claim.appendix)


@pytest.mark.parametrize("project", list_projects())
def test_paper_configs_say_where_their_values_come_from(project):
    for path in CONFIG_DIR.joinpath(project).glob("paper*.yaml"):
        assert "#" in path.read_text(encoding="utf-8"), path


def test_keys_of_a_schema_are_unique_and_dotted():
    from omegaconf import OmegaConf

    keys = leaf_keys(OmegaConf.structured(config_class(next(iter(list_projects())))))
    assert len(keys) == len(set(keys))
    assert "optim.lr" in keys


@pytest.mark.parametrize("project", list_projects())
def test_no_config_believes_that_an_empty_mapping_clears_what_it_extends(project):
    """Mappings are merged: ``references: {}`` keeps all entries of the parent."""
    for name in config_names(project):
        chain = _chain(config_path(project, name))
        for place, (path, layer) in enumerate(chain):
            before = (
                OmegaConf.merge(*(node for _, node in chain[:place]))
                if place
                else OmegaConf.create()
            )
            for key, value in _leaves(OmegaConf.to_container(layer)):
                kept = OmegaConf.select(before, key) if value == {} else None
                assert not kept, f"{path.name}: {key}"


def _leaves(node, prefix=""):
    """Dotted keys of a nested mapping with their values; an empty mapping is a value."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
