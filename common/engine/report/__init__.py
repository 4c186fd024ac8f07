"""`make report`: static pages of runs and comparisons that open from disk without a network.

Never here: measuring (`evaluation`), verdicts (`engine.comparison`), a page that one project alone
has.
"""
