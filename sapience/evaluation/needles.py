"""The needle map: how often a fact hidden at some depth of a text of some length is found again.

A test needle (its word never occurs as a key in training) is put between two sentences of real filler text,
the question stands at the end, and the sample has exactly so many tokens, bos and answer included. The
answer counts when all of its tokens are the model's greedy choices. Since a right greedy answer has only
right tokens before each of its tokens, one teacher-forced forward pass decides this exactly as generation
would, at a fraction of the cost.

Not covered: several needles with distractors, or questions that need more than copying.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Protocol

import torch

from sapience.evaluation.bits_per_byte import LanguageModel, evaluating, model_device
from sapience.problems.lookup import Needle, needle_prompt, random_needle

_LEAST_FILLER = 12  # tokens: less text than this is no text to hide in


class Codec(Protocol):
    """What is needed of a tokenizer."""

    bos_id: int

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...

    def decode(self, ids: list[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class NeedleSample:
    """A prompt with its answer: `tokens` has exactly `length` entries, the last `answer_length` are the
    answer."""

    length: int
    depth: float
    needle: Needle
    tokens: list[int]
    answer_length: int


@dataclass(frozen=True, slots=True)
class NeedleResult:
    """What the model would have said after one sample's question, up to its first wrong token at least."""

    length: int
    depth: float
    word: str
    answer: str
    produced: str
    correct: bool

    def record(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class NeedleMap:
    """Results of all samples, with shares by length and depth."""

    results: tuple[NeedleResult, ...]

    def by_length(self) -> dict[int, float]:
        """Length in tokens -> share found, over all depths."""
        lengths = sorted({result.length for result in self.results})
        return {length: _share([r for r in self.results if r.length == length]) for length in lengths}

    def cells(self) -> list[dict[str, Any]]:
        """A record per length and depth: `length` in tokens, `depth` and `accuracy` 0 to 1, `samples`."""
        groups: dict[tuple[int, float], list[NeedleResult]] = {}
        for result in self.results:
            groups.setdefault((result.length, result.depth), []).append(result)
        return [
            {"length": length, "depth": depth, "accuracy": _share(group), "samples": len(group)}
            for (length, depth), group in sorted(groups.items())
        ]


def needle_map(
    model: LanguageModel,
    tokenizer: Codec,
    fillers: Sequence[str],
    samples: Mapping[int, int],
    depths: Sequence[float],
    seed: int,
    batch_tokens: int = 4096,
) -> NeedleMap:
    """Measures `samples[length]` needles at every depth, for each length in tokens. The same seed asks the
    same questions."""
    results = []
    for length, count in sorted(samples.items()):
        asked = needle_samples(tokenizer, fillers, length, depths, count, seed)
        results += answer_needles(model, tokenizer, asked, batch_tokens)
    return NeedleMap(tuple(results))


def needle_samples(
    tokenizer: Codec, fillers: Sequence[str], length: int, depths: Sequence[float], count: int, seed: int
) -> list[NeedleSample]:
    """`count` samples of exactly `length` tokens for each depth; a pure function of its arguments.

    `fillers` are texts, used in random order, over again where they are too short. `ValueError` where there
    is none or where `length` leaves no room for text around the needle.
    """
    if not any(filler.strip() for filler in fillers):
        raise ValueError("needles need filler text to hide in: the held-out sample is empty")
    drafts = [
        _Draft(tokenizer, fillers, length, depth, Random(f"needle {seed} {length} {depth} {number}"))
        for depth in depths
        for number in range(count)
    ]
    # All are cut to length at once, so that the tokenizer can use all processors.
    searches = {index: shortest(length - 1, len(draft.filler)) for index, draft in enumerate(drafts)}
    sizes = {index: next(search) for index, search in searches.items()}
    while sizes:
        texts = tokenizer.encode_batch([drafts[index].text(size) for index, size in sizes.items()])
        for index, text in zip(list(sizes), texts, strict=True):
            try:
                sizes[index] = searches[index].send(len(text))
            except StopIteration as found:
                drafts[index].characters = found.value
                del sizes[index]
    return [draft.sample(tokenizer) for draft in drafts]


def shortest(least: int, sizes: int) -> Generator[int, int, int]:
    """The smallest of range(sizes) that gives `least` tokens or more, `sizes` if none does; a coroutine that is told how many
    tokens each size has that it names. The more characters, the more tokens, about evenly."""
    below, enough = -1, sizes
    size = min(4 * least, sizes - 1)
    tokens = yield size
    size, step = min(size * least // max(tokens, 1), sizes - 1), 16
    while below + 1 < enough:
        tokens = yield size
        if tokens >= least:
            enough = size
        else:
            below = size
        if below >= 0 and enough < sizes:
            size = (below + enough) // 2
        else:  # away from the only bound there is, faster and faster
            size = max(size - step, below + 1) if tokens >= least else min(size + step, enough - 1)
            step *= 4
    return enough


class _Draft:
    """A sample to be: the shortest piece of filler that gives `length` tokens or more, less the few that are too many.

    Those are taken away where they are farthest from the needle: at the start of the text, or right before
    the question.
    """

    def __init__(self, tokenizer: Codec, fillers: Sequence[str], length: int, depth: float, rng: Random) -> None:
        self.length, self.depth = length, depth
        self.needle = random_needle(rng, "test")
        question = tokenizer.encode(self.needle.question)
        self.tail = tokenizer.encode(self.needle.question + self.needle.answer)
        self.same = 0
        while self.same < len(question) and question[self.same] == self.tail[self.same]:
            self.same += 1
        least = 1 + len(self.tail) + len(tokenizer.encode(self.needle.sentence)) + _LEAST_FILLER
        if length < least:
            raise ValueError(f"a needle test of {length} tokens has no room for text around it: take {least} or more")
        self.filler = _long_filler(fillers, 16 * length, rng)
        self.characters = 0

    def text(self, characters: int) -> str:
        """The whole sample with so much filler."""
        return needle_prompt(self.filler[:characters], self.needle, self.depth) + self.needle.answer

    def sample(self, tokenizer: Codec) -> NeedleSample:
        """Cut to length."""
        text = tokenizer.encode(self.text(self.characters))
        excess = 1 + len(text) - self.length
        if self.depth >= 0.5:
            text = text[excess:]
        else:
            end = len(text) - len(self.tail) - 1  # the line break in front of the question stays
            text = text[: end - excess] + text[end:]
        tokens = [tokenizer.bos_id, *text]
        return NeedleSample(self.length, self.depth, self.needle, tokens, len(self.tail) - self.same)


@torch.inference_mode()
def answer_needles(
    model: LanguageModel, tokenizer: Codec, samples: Sequence[NeedleSample], batch_tokens: int = 4096
) -> list[NeedleResult]:
    """The model's greedy choice at every answer token; results in the order of `samples`, which share one
    length."""
    results: list[NeedleResult] = []
    device = model_device(model)
    with evaluating(model):
        rows = max(1, batch_tokens // max((sample.length for sample in samples), default=1))
        for start in range(0, len(samples), rows):
            batch = samples[start : start + rows]
            longest = max(sample.answer_length for sample in batch)
            tokens_BT = torch.tensor([sample.tokens for sample in batch], device=device)
            hidden_BAD = model.hidden(tokens_BT[:, :-1])[:, -longest:]
            choices_BA = model.logits(hidden_BAD).argmax(-1).tolist()
            for sample, row in zip(batch, choices_BA, strict=True):
                choice = row[-sample.answer_length :]
                results.append(
                    NeedleResult(
                        sample.length,
                        sample.depth,
                        sample.needle.word,
                        sample.needle.answer,
                        tokenizer.decode(choice),
                        choice == sample.tokens[-sample.answer_length :],
                    )
                )
    return results


def _long_filler(fillers: Sequence[str], characters: int, rng: Random) -> str:
    """Texts in random order, one under the other, over again until there are `characters`."""
    texts = [filler.strip() for filler in fillers if filler.strip()]
    rng.shuffle(texts)
    joined: list[str] = []
    total = 0
    while total < characters:
        joined.append(texts[len(joined) % len(texts)])
        total += len(joined[-1]) + 1
    return "\n".join(joined)


def _share(results: Sequence[NeedleResult]) -> float:
    return sum(result.correct for result in results) / max(1, len(results))
