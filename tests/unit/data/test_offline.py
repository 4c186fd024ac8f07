"""The cache of offline stages: joining by content."""

from common.data.offline import content_digest, content_key


def test_borders_of_texts_count():
    assert content_key(("ab", "c")) != content_key(("a", "bc"))
    assert content_key(("ab",)) == content_key("ab")
    assert content_digest(["ab", "c"]) != content_digest(["a", "bc"])
    assert content_digest(["a", "b"]) != content_digest(["b", "a"])
