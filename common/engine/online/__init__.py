"""What goes to W&B alongside the runs themselves: a project's workspace, a comparison's verdicts.

Never here: the logger of a run (`engine.tracking`), anything that training needs.
"""
