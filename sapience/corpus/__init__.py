"""Raw text to token rows: sources, cleaning, deduplication, mixture, tokenizer, shards, stream."""
