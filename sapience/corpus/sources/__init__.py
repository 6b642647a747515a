"""Where raw text comes from: packages of the system and of Python, a user's files, the Hugging Face hub.

`reading.read_source` is the only door. Every source gives its texts in the same order every time, hands what it cannot
read to a quarantine instead of failing, and says why when it is not to be had at all. Limits, cleaning and
deduplication are not its business.
"""
