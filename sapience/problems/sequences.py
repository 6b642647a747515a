"""Families about short sequences: counting, positions, order, repeating, looking up.

They all live on one ability that post-training cannot add to a small model in minutes, copying from the prompt by
position or by name; so they belong in the pre-training mix from the start. Items are single letters, digits or
short words, separated by blanks, so that a tokenizer keeps them apart.
"""

from __future__ import annotations

from random import Random

from sapience.problems.problem import ANSWER_MARK, Problem
from sapience.problems.words import TRAIN_WORDS

PEOPLE = (
    "Tom Ann Bob Eve Max Lea Sam Zoe Ben Ida Leo Amy Jim Kim Dan Mia Ali Eva Tim Ron Pia Kai Noa Ray Ada Gus Ivy Jan "
    "Lou Meg Ned Pat Roy Sue Ted Una Vic Wes Yan Zac"
).split()
ORDINALS = ("first", "second", "third", "fourth")


def _problem(family: str, question: str, answer: str, steps: str = "") -> Problem:
    worked = f"{steps}{ANSWER_MARK}{answer}" if steps else answer
    return Problem(family, "general", question, answer, worked)


def _different_items(rng: Random, low: int, high: int) -> list[str]:
    """`low` to `high` different letters, one- and two-digit numbers, or words: one kind in one sequence."""
    count = rng.randint(low, high)
    kind = rng.randrange(3)
    if kind == 0:
        return rng.sample("abcdefghijklmnopqrstuvwxyz", count)
    if kind == 1:
        return [str(number) for number in rng.sample(range(100), count)]
    return rng.sample(TRAIN_WORDS, count)


def draw_letter_count(rng: Random) -> Problem:
    """How often one of three letters stands in 4-8 letters; about 10 million questions. Worked: a running count."""
    alphabet = rng.sample("abcdefghijklmnopqrstuvwxyz", 3)
    letters = [rng.choice(alphabet) for _ in range(rng.randint(4, 8))]
    wanted = rng.choice(alphabet)
    counts = [letters[: place + 1].count(wanted) for place in range(len(letters))]
    steps = ", ".join(f"{letter} {count}" for letter, count in zip(letters, counts, strict=True))
    return _problem("countl", f"How many {wanted} are in: {' '.join(letters)}?", str(counts[-1]), steps)


def draw_person(rng: Random) -> Problem:
    """2-4 people with a number below 100 each, one asked for; more than 10 million questions. No steps."""
    people = rng.sample(PEOPLE, rng.randint(2, 4))
    numbers = rng.sample(range(2, 100), len(people))
    facts = " ".join(f"{person} has {number}." for person, number in zip(people, numbers, strict=True))
    asked = rng.randrange(len(people))
    return _problem("lookup", f"{facts} How many does {people[asked]} have?", str(numbers[asked]))


def draw_item(rng: Random) -> Problem:
    """The first to fourth or last of 3-6 items; millions of questions. No steps."""
    items = _different_items(rng, 3, 6)
    names = {name: items[place] for place, name in enumerate(ORDINALS) if place < len(items)}
    names["last"] = items[-1]
    asked = rng.choice(list(names))
    return _problem("item", f"Which item is the {asked} of: {' '.join(items)}?", names[asked])


def draw_successor(rng: Random) -> Problem:
    """What follows (or precedes) an item in 3-6 items; millions of questions. No steps."""
    items = _different_items(rng, 3, 6)
    place = rng.randrange(len(items) - 1)
    if rng.random() < 0.7:
        return _problem("after", f"What comes after {items[place]} in: {' '.join(items)}?", items[place + 1])
    return _problem("after", f"What comes before {items[place + 1]} in: {' '.join(items)}?", items[place])


def draw_reversal(rng: Random) -> Problem:
    """3-5 items in reverse order; millions of questions. No steps."""
    items = _different_items(rng, 3, 5)
    return _problem("reverse", f"Reverse: {' '.join(items)}", " ".join(reversed(items)))


def draw_repetition(rng: Random) -> Problem:
    """3-6 items to be repeated as they stand; millions of questions. No steps."""
    items = _different_items(rng, 3, 6)
    return _problem("copy", f"Repeat: {' '.join(items)}", " ".join(items))


def draw_removal(rng: Random) -> Problem:
    """4-6 items with one to be left out; millions of questions. No steps."""
    items = _different_items(rng, 4, 6)
    dropped = rng.choice(items)
    kept = [item for item in items if item != dropped]
    return _problem("without", f"Leave out {dropped} from: {' '.join(items)}", " ".join(kept))
