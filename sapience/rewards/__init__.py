"""Rewards: is this text a right answer, and how is untrusted code run to find out?

Every judge gives a `verdict.Verdict`. Mathematics is compared as text and numbers, programs are run against hidden
tests inside a sandbox. This room knows problems and nothing of models, rollouts or training.
"""
