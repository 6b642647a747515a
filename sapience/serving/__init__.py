"""Talking to a model: conversations that fit its context, answers that come token by token; in the terminal, through OpenAI's
API, on a page in the browser.

Import the module that has what you need. The package itself imports nothing, so that `printable`, which everything that
shows a model's words goes through, comes without torch.
"""
