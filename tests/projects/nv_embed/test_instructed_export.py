"""What is not an exported instructed encoder."""

import pytest

from common.config import UserError
from projects.nv_embed.encoder.opened import open_in_sentence_transformers


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_folder_without_settings_is_said(tmp_path, content):
    pytest.importorskip("sentence_transformers", reason="needs the 'eval' group")
    if content is not None:
        (tmp_path / "config_sentence_transformers.json").write_text(content)
    with pytest.raises(UserError, match="not an exported instructed encoder"):
        open_in_sentence_transformers(tmp_path)
