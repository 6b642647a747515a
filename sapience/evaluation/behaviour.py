"""Does an assistant behave? Held-out wishes it should refuse, answer, or admit that nobody can know.

All three are measured, since each alone is easy: a model that refuses everything refuses every harmful wish. What
counts as a refusal or an admission is in `problems.everyday`; a model that was taught other words for it needs another
judge. The language of an answer is told by its letters, English against Chinese.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sapience.corpus.chat import ChatFormat, Message
from sapience.evaluation.scoring import score_of
from sapience.evaluation.zero_shot import chat_completions
from sapience.model.transformer import Transformer
from sapience.problems.everyday import BehaviourPrompt, admits_ignorance, behaves, refuses
from sapience.rewards.language import language_consistent

MEASURES = {"harmful": "refused", "harmless": "answered", "unanswerable": "admitted"}
"""Kind of wish -> what the share of well-behaved answers is called."""


@dataclass(frozen=True, slots=True)
class BehaviourAnswer:
    """A wish and what the assistant said."""

    prompt: BehaviourPrompt
    text: str
    finished: bool

    @property
    def behaved(self) -> bool:
        """As it should: refused, answered or admitted, whichever is right for the kind of wish."""
        return behaves(self.prompt.kind, self.text)

    @property
    def in_language(self) -> bool:
        """In the language of the wish."""
        return language_consistent(self.text, "zh" if self.prompt.language == "zh" else "en")

    def record(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return {
            "wish": self.prompt.kind, "topics": self.prompt.topics, "language": self.prompt.language,
            "prompt": self.prompt.prompt, "produced": self.text, "correct": self.behaved, "refuses": refuses(self.text),
            "admits": admits_ignorance(self.text), "in_language": self.in_language, "finished": self.finished,
        }  # fmt: skip


def behaviour_answers(
    model: Transformer, chat: ChatFormat, wishes: Sequence[BehaviourPrompt], answer_tokens: int, seed: int
) -> list[BehaviourAnswer]:
    """The most likely answer to each wish, in their order."""
    prompts = [chat.prompt([Message("user", wish.prompt)]) for wish in wishes]
    completions = chat_completions(model, chat, prompts, answer_tokens, seed)
    return [
        BehaviourAnswer(wish, chat.text(done.tokens), done.finished)
        for wish, done in zip(wishes, completions, strict=True)
    ]


def behaviour_figures(answers: Sequence[BehaviourAnswer]) -> dict[str, Any]:
    """Shares with intervals of harmful wishes `refused`, harmless ones `answered`, unanswerable ones `admitted`, and of
    answers `in_language`: of unseen phrasings of known topics, under `by_language` for each language, and under
    `new_topics` of the wishes written by hand, whose topics are new as well."""
    known = [answer for answer in answers if answer.prompt.topics == "known"]
    new = [answer for answer in answers if answer.prompt.topics == "new"]
    languages = dict.fromkeys(answer.prompt.language for answer in known)
    return {
        **_shares(known),
        "by_language": {name: _shares([a for a in known if a.prompt.language == name]) for name in languages},
        **({"new_topics": _shares(new)} if new else {}),
    }


def _shares(answers: Sequence[BehaviourAnswer]) -> dict[str, Any]:
    kinds = {
        name: _share([a for a in answers if a.prompt.kind == kind], lambda a: a.behaved)
        for kind, name in MEASURES.items()
    }
    kinds["in_language"] = _share(answers, lambda a: a.in_language)
    return {name: share for name, share in kinds.items() if share["wishes"]}


def _share(answers: Sequence[BehaviourAnswer], holds: Callable[[BehaviourAnswer], bool]) -> dict[str, Any]:
    score = score_of([holds(answer) for answer in answers])
    return {"share": score.accuracy, "interval": list(score.interval), "wishes": score.problems}


def headline(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures a run is known by: `refusal.harmful` is the share of harmful wishes refused, `refusal.harmless` the
    share of harmless wishes *answered* (high is good for both), `admits_ignorance` that of unanswerable ones admitted."""
    shares = {kind: figures[name]["share"] for kind, name in MEASURES.items() if name in figures}
    refusal = {kind: shares[kind] for kind in ("harmful", "harmless") if kind in shares}
    admitted = {"admits_ignorance": shares["unanswerable"]} if "unanswerable" in shares else {}
    return ({"refusal": refusal} if refusal else {}) | admitted
