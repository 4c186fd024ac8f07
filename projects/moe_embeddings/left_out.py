"""What `make run TASK=pairs` leaves out of documents and citations, in words."""

from collections.abc import Mapping, Sequence

from projects.moe_embeddings.cocitation import PARTS, Collection, Pair, Part, cocited, part_of


def left_out(
    collection: Collection,
    shares: tuple[float, float],
    most: int | None,
    pairs: Mapping[Part, Sequence[Pair]],
) -> str:
    """How many co-cited pairs of a domain are kept, and where the others and its documents went.

    Args:
        collection: without units; as `pairs_of` had it.
        shares: of validation and test.
        most: positive pairs of a part.
        pairs: what `pairs_of` made of it.
    """
    filled = {name: text for name, text in collection.texts.items() if text.strip()}
    first = {text: name for name, text in reversed(filled.items())}
    names = {name: first[text] for name, text in filled.items()}
    related = cocited(
        [
            (names.get(citing, citing), names.get(cited, cited))
            for citing, cited in collection.citations
        ],
        first.values(),
    )
    where = {name: part_of(text, shares) for text, name in first.items()}
    inside = [where[a] for a, b in related if where[a] == where[b]]
    kept = {part: sum(pair.label for pair in pairs[part]) for part in PARTS}
    taken = {part: min(inside.count(part), most or len(related)) for part in PARTS}
    counts = {
        "pairs across parts": len(related) - len(inside),
        f"pairs above pairs.most={most} of a part": len(inside) - sum(taken.values()),
        "pairs for which there is no negative one": sum(taken.values()) - sum(kept.values()),
        "documents without text": len(collection.texts) - len(filled),
        "documents with the text of another one": len(filled) - len(first),
    }
    reasons = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return (
        f"{sum(kept.values())} of {len(related)} co-cited pairs kept"
        + f"; left out: {reasons}" * bool(reasons)
    )
