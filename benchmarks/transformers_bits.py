"""Bits per byte of one model here and in transformers, on the same text: an exported checkpoint is the same model there.

    python benchmarks/transformers_bits.py demo@pretrain                      # the run's own held-out text
    python benchmarks/transformers_bits.py FOLDER --text a.txt b.txt          # any folder, any text

The model is exported as `sapience export` does it, read by transformers' AutoModelForCausalLM and AutoTokenizer, and scored
with nothing of sapience; beside it stands sapience's own scoring of the same documents. Both score a document behind its
bos token in windows that overlap by half, so the figures compare. Prints one JSON line per domain.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sapience.corpus.tokenizer import Tokenizer
from sapience.evaluation.bits_per_byte import bits_per_byte
from sapience.evaluation.held_out import held_out_domains, held_out_sample
from sapience.evaluation.model_card import run_of
from sapience.model.config_json import load_config
from sapience.model.conversion import Conversion, convert_folder
from sapience.model.huggingface import load_model
from sapience.recipe import UserError
from sapience.run import ProgressTask, resolve_model


class _NoBar:
    def advance(self, amount: float = 1, **figures: float | str) -> None:
        """Show nothing."""


@contextmanager
def no_bar(_: str, __: int | None) -> Iterator[ProgressTask]:
    """Progress without a screen."""
    yield _NoBar()


@torch.inference_mode()
def transformers_bits(model: Any, tokenizer: Any, texts: list[str], length: int) -> float:
    """The same measure by transformers' logits, one document and window at a time."""
    nats = 0.0
    for text in texts:
        ids = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
        scored, start = 1, 0
        while scored < len(ids):
            window = torch.tensor([ids[start : start + length + 1]])
            losses = torch.nn.functional.cross_entropy(
                model(input_ids=window[:, :-1], use_cache=False).logits[0].double(), window[0, 1:], reduction="none"
            )
            nats += float(losses[scored - start - 1 :].sum())
            scored = start + window.shape[1]
            start += max(1, length // 2)
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def texts_of(arguments: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """Domain -> documents."""
    if arguments.text:
        return {path.stem: [path.read_text(encoding="utf-8")] for path in arguments.text}
    found = run_of(folder)
    if found is None:
        raise UserError(f"{folder} lies in no run: name text with --text")
    corpus = found[0] / "corpus"
    limit = int(arguments.kilobytes * 1024)
    return {
        domain: [document.text for document in held_out_sample(corpus, domain, limit)]
        for domain in held_out_domains(corpus)
    }


def main() -> None:
    """Parse, score twice, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="RUN@stage or a Hugging Face folder")
    parser.add_argument("--text", nargs="+", type=Path, help="text files instead of the run's held-out text")
    parser.add_argument("--kilobytes", type=float, default=16, help="held-out text per domain, in units of 1024 bytes")
    parser.add_argument("--length", type=int, help="context in tokens; the model's own without it")
    arguments = parser.parse_args()
    folder = resolve_model(arguments.model)
    texts = texts_of(arguments, folder)
    length = arguments.length or load_config(folder).max_position_embeddings
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as name:
        exported = Path(name) / "exported"
        convert_folder(folder, exported, Conversion(), no_bar)
        theirs = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
        their_tokenizer = AutoTokenizer.from_pretrained(exported)
    ours, tokenizer = load_model(folder).eval(), Tokenizer.load(folder)
    for domain, documents in texts.items():
        here = bits_per_byte(ours, tokenizer, documents, length)
        there = transformers_bits(theirs, their_tokenizer, documents, length)
        record = {"what": "bits per byte", "model": arguments.model, "domain": domain, "length": length}
        print(
            json.dumps({**record, "sapience": here, "transformers": there, "difference": abs(here - there)}), flush=True
        )


if __name__ == "__main__":
    main()
