"""From raw text to shards: sources, cleaning, deduplication, tokenizer, fill-in-the-middle, packing, stream.

Text passes through here once and becomes a pure function: `TokenStream.rows(start, count)`. Nothing here knows a
model or imports torch.
"""
