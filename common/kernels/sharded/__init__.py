"""One problem over several ranks: plans, gather or ring, merged statistics."""
