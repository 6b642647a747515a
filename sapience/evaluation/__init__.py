"""What a model can do, measured: bits per byte, MTP drafts, needles, problem families; and the report that
shows it.

Import the module that has what you need. The package itself imports nothing, so that the report and the
table of the journey come without torch.
"""
