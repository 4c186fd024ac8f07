"""Which loss should I use? All losses of a family on the same data, encoder, budget and search.

After Musgrave et al. 2020, "A Metric Learning Reality Check", arXiv 2003.08505. A contestant is a
file in ``arena/contestants``; docs/arena.md has the results and how to add one.
"""
