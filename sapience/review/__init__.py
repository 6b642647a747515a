"""The human side of post-training: answers that people accept, edit or reject, and pairs they compare blind.

A stage adds drafts and comparisons to a queue in a database (`queue`); people work through it on a web page (`page`,
`review.html`, started by `server`); later stages read from the queue what people decided: answers for supervised
fine-tuning, and preferences with reasons for the reward model. The records that pass between are in `records`.

Why a database and not a file of the run: people work for days, several at a time, while stages are run again. What they
said must survive every rerun, so the queue lies outside the stages' folders and only ever grows.

Not covered: accounts and passwords (a name is a claim, the page is served to this machine only), translation, and the
selection of what is worth a person's time, which is the business of the stage that fills the queue.
"""
