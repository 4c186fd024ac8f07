"""All projects, and one of each family for what takes too long to run for all before a commit."""

from typing import Any

import pytest

from common.registry import list_projects

PROJECTS = list(list_projects())

# of each family the project that does most of its own there
FAMILIES = {
    "sentences": "debcse",  # mines before it trains, ranks wait for each other
    "images": "dcl",  # queue and support set of all ranks
    "image_text": "laclip",
    "classification": "peft_augmentation",
    "retrieval": "nv_embed",  # batches are made for all ranks together
    "speech": "coconut",  # several stages, replay
    "lidar": "trend",
}

# trained before a commit; twelve seconds for the three tasks of coconut wait for a release
QUICK = set(FAMILIES.values()) - {FAMILIES["speech"]}


def project_param(project: str, *values: Any, quick: bool = True) -> Any:
    """A parameter of a test, which is slow but for one project of each family.

    Args:
        project: slug, the first value.
        values: further ones.
        quick: False: slow for those too.
    """
    chosen = quick and project in FAMILIES.values()
    return pytest.param(project, *values, marks=() if chosen else pytest.mark.slow)
