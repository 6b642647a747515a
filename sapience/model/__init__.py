"""The network as plain modules, and its files.

Tensor names carry shapes where they change (`hidden_BTD`). The project's legend:

    B batch · T sequence · D hidden size · H heads · E experts · K experts per token · N routed tokens (B·T·K)
    F expert hidden size · V vocabulary · R latent rank · P positional (rotary) width · G expert groups
"""
