"""`load` of what this project exports: a student, or a teacher of its own."""

import pytest
import torch

from common.config import UserError
from common.export.cross_encoder import save_cross_encoder
from projects.dse import load
from projects.dse.scorer import save_scorer
from tests.projects.dse.conftest import TEXTS, classifier, student


@pytest.mark.parametrize("pooling", ["classifier", "segments"])
def test_a_teacher_opens_as_the_cross_encoder_that_it_is(tmp_path, pooling):
    """The export of ``train=teacher`` was refused as no student."""
    teacher = classifier(pooling=pooling).eval()
    save_cross_encoder(teacher, tmp_path)
    pairs = list(zip(TEXTS, TEXTS[::-1], strict=True))
    torch.testing.assert_close(load(tmp_path).score(pairs), teacher.score(pairs))


def test_a_student_opens_and_another_folder_is_named(tmp_path):
    """The file that is there decides; without any, both kinds are named, not a missing file of
    one."""
    scorer = student().scorer
    save_scorer(scorer, tmp_path / "student")
    torch.testing.assert_close(load(tmp_path / "student").encode(TEXTS), scorer.encode(TEXTS))
    with pytest.raises(UserError, match=r"neither an exported DSE student \(dse.json\) nor"):
        load(tmp_path)
