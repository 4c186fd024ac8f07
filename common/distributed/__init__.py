"""Collectives with gradients, ring exchange, and the mean/sum convention of DDP.

The convention, once for the whole repository. Every rank holds some rows of the global batch and
back-propagates its own scalar `L_r`; the backward of each collective here returns the gradient of
`sum_r L_r` (a gather sums what all ranks want of a row). DDP and FSDP then average parameter
gradients over the `W` ranks, so the update follows `(1/W) sum_r L_r`: a rank's loss is the mean
over *its own rows* against everybody's columns, or the full loss repeated on every rank. Ranks with
unequal row counts weight their rows with `rank_mean`.

Without an initialised process group everything is the identity with `rank() == 0` and
`world_size() == 1`. In this module `group=None` means the default group.
"""
