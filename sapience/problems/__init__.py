"""Problem sets: generated families, needles, a user's own files, and the one rule that parts training from test.

A low room without torch, because the corpus, the experts, GRPO and the evaluation must all agree on which
question may be trained on; whoever needs that answer asks here and nowhere else.
"""
