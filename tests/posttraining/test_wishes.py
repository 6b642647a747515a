"""Formed wishes are dealt out to the stages without overlap, and judged by the kind of answer they want."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from sapience.inference.generate import Completion
from sapience.posttraining import reward_draws
from sapience.posttraining.drawn_pairs import plausible_pairs
from sapience.posttraining.rollouts import Judge, Prompt, Rollout
from sapience.posttraining.wishes import (
    asked_conversations,
    compared_conversations,
    learned_conversations,
    right_kind,
    wish_prompt,
)
from sapience.problems.everyday import behaves, everyday_conversations
from sapience.recipe import Recipe, UserError
from sapience.run import StageContext


def recipe_of(distilled: int, compared: int, asked: int) -> Recipe:
    tree = {"distill": {"generated": distilled}, "reward": {"wishes": compared}, "reinforce": {"wishes": asked}}
    return Recipe.model_validate(tree)


def test_no_two_stages_are_given_the_same_wish() -> None:
    recipe = recipe_of(60, 40, 30)
    parts = [learned_conversations(recipe), compared_conversations(recipe), asked_conversations(recipe)]
    wishes = [said.turns[-2][1] for part in parts for said in part]
    assert [len(part) for part in parts] == [60, 40, 30 + len(everyday_conversations())]
    formed = [said.turns[-2][1] for part in parts for said in part if said not in everyday_conversations()]
    assert len(set(formed)) == len(formed) == 130 and len(wishes) > 1000
    assert asked_conversations(Recipe()) == everyday_conversations() and not learned_conversations(Recipe())


def test_more_wishes_than_topics_give_are_refused_with_a_remedy() -> None:
    recipe = Recipe.model_validate({"distill": {"generated": 50_000, "topics": 1}})
    with pytest.raises(UserError, match=r"no more different conversations.*raise distill\.topics"):
        learned_conversations(recipe)


def test_the_answer_a_wish_is_formed_with_is_of_the_right_kind() -> None:
    for said in compared_conversations(recipe_of(0, 300, 0)):
        assert behaves(right_kind(said.category), said.turns[-1][1]), said
        prompt = wish_prompt(said)
        assert prompt.messages[-1].role == "user" and prompt.problem is None and prompt.language == said.language


def test_pairs_come_from_the_models_own_answers_and_the_formed_one_stands_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = recipe_of(0, 60, 0)
    said = ["I can't help with that.", "I don't know.", "Use a spoon.", ""]
    calls = []

    def draw(model: object, chat: object, prompts: Sequence[Prompt], samples: int, judge: Judge, **_: object) -> object:
        calls.append(len(prompts))
        texts = [said[i % 4] for i in range(samples)]
        return [
            [
                Rollout(prompt, [1], Completion([5] * len(text), [0.0] * len(text), bool(text)), text, reward)
                for text, reward in zip(texts, judge([prompt] * samples, texts), strict=True)
            ]
            for prompt in prompts
        ]

    class Chat:
        def answer(self, text: str) -> list[int]:
            return list(text.encode())

    monkeypatch.setattr(reward_draws, "draw", draw)
    context = StageContext(recipe, tmp_path, tmp_path, {}, None)  # type: ignore[arg-type]
    groups = reward_draws.draw_wish_groups(context, None, Chat())  # type: ignore[arg-type]
    assert reward_draws.draw_wish_groups(context, None, Chat()) == groups and calls == [60]  # type: ignore[arg-type]
    pairs = plausible_pairs(groups, 0.2).pairs
    assert len(pairs) == 60 and {pair.kind for pair in pairs} == {"wish"} and len({pair.reason for pair in pairs}) == 3
    for pair, conversation in zip(pairs, compared_conversations(recipe), strict=True):
        kind = right_kind(conversation.category)
        assert behaves(kind, pair.chosen) and not behaves(kind, pair.rejected)
        assert pair.rejected in said
        if conversation.language == "zh" or pair.chosen not in said:
            assert behaves(kind, conversation.turns[-1][1])


def test_formed_pairs_prefer_a_wishs_own_answer_with_the_reason_that_fits() -> None:
    recipe = recipe_of(0, 200, 0)
    pairs = reward_draws.formed_pairs(recipe, 0.2)
    asked = compared_conversations(recipe)
    assert pairs == reward_draws.formed_pairs(recipe, 0.2) and len(pairs) == 200
    own = {said.turns[-2][1]: said for said in asked}
    answers = {said.turns[-1][1]: said for said in asked}
    for pair in pairs:
        said, other = own[pair.messages[-1].content], answers[pair.rejected]
        assert pair.chosen == said.turns[-1][1] != pair.rejected and pair.kind == "formed"
        if other.language != said.language:
            assert "language" in pair.reason
        elif right_kind(other.category) == right_kind(said.category):
            assert "something else" in pair.reason
        else:
            assert "better than" in pair.reason and not behaves(right_kind(said.category), pair.rejected)
    assert 10 < sum(pair.test for pair in pairs) < 80 and len({pair.reason for pair in pairs}) == 5
