"""Talking to a model: conversations that fit its context, answers that come token by token, the terminal.

Import the module that has what you need. The package itself imports nothing, so that `printable`, which everything that
shows a model's words goes through, comes without torch. An API for other programs is not covered.
"""
