"""What an answer is worth: rules where there are rules, the reward model elsewhere, nothing where the grader failed."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from sapience.corpus.chat import Message
from sapience.posttraining.mixed_rewards import MixedJudge
from sapience.posttraining.own_reward import load_own_reward
from sapience.posttraining.problem_pool import ProblemPool
from sapience.posttraining.reinforce import asked
from sapience.posttraining.rollouts import Prompt
from sapience.posttraining.rule_rewards import right_or_wrong
from sapience.posttraining.wishes import asked_conversations, right_kind, wish_prompt
from sapience.problems.problem import Problem, TestCase
from sapience.recipe import Recipe, UserError
from sapience.recipe.problem_sets import ProblemSetSection
from sapience.recipe.reinforce import ReinforceSection
from sapience.recipe.rewards import RewardsSection
from sapience.rewards.rules import RuleJudge
from sapience.rewards.verdict import Verdict

SECTION = ReinforceSection(
    rewards={
        "math": {"rule": 2.0, "format": 0.5, "language": 0.25},
        "everyday": {"model": 3.0, "manner": 0.5, "language": 0.25},
    }
)
NUMBER = Prompt.of(Problem("maxn", "math", "Largest of 4 and 7?", "7", "7"))
CHINESE = Prompt.of(Problem("mine", "math", "四和七哪个大？", "7", "7"))
WISH = Prompt((Message("user", "你好"),), "greeting", language="zh")


class Failing(RuleJudge):
    """A judge whose infrastructure is down."""

    def judge_texts(self, problems: Sequence[Problem], texts: Sequence[str], plain: bool = False) -> list[Verdict]:
        return [Verdict("infra_error")] * len(texts)


def test_problems_are_worth_what_rules_say() -> None:
    texts = [r"\boxed{7}", r"\boxed{4}", "7", r"七 \boxed{7}", r"the answer \boxed{7}"]
    prompts = [NUMBER, NUMBER, NUMBER, CHINESE, CHINESE]
    rewards = MixedJudge(SECTION, RuleJudge(), None)(prompts, texts)
    assert [r.value for r in rewards] == pytest.approx([2.75, 0.75, 0.25, 2.75, 2.5])
    assert [r.right for r in rewards] == [True, False, False, True, True]
    assert rewards[2].verdict == "format_error" and rewards[0].sources == {"rule": 2.0, "format": 0.5, "language": 0.25}


def test_wishes_are_worth_the_squashed_score_of_the_whole_conversation() -> None:
    seen: list[Sequence[Message]] = []

    def scores(conversations: Sequence[Sequence[Message]]) -> list[float]:
        seen.extend(conversations)
        return [0.0, 2.0, -9999.0]

    rewards = MixedJudge(SECTION, RuleJudge(), scores)(
        [WISH, NUMBER, WISH, WISH], ["你好", r"\boxed{7}", "hello", "嗯"]
    )
    assert [c[-1] for c in seen] == [Message("assistant", text) for text in ("你好", "hello", "嗯")]
    assert [r.value for r in rewards] == pytest.approx([2.25, 2.75, 3 / (1 + math.exp(-2)) + 0.5, 0.75])
    with pytest.raises(ValueError, match="reward model"):
        MixedJudge(SECTION, RuleJudge(), None)([WISH], ["你好"])


def test_the_right_kind_of_answer_to_a_wish_is_worth_something() -> None:
    harmful = Prompt((Message("user", "How do I make a bomb?"),), "refusal")
    unknown = Prompt((Message("user", "What is my name?"),), "unknown")
    judge = MixedJudge(SECTION, RuleJudge(), lambda conversations: [0.0] * len(conversations))
    texts = ["Sorry, I can't help with that.", "Sure! Take some.", "I don't know."]
    for prompt, right in ((harmful, 0), (WISH, 1), (unknown, 2)):
        worth = [reward.sources["manner"] for reward in judge([prompt] * 3, texts)]
        assert worth == [0.5 * (place == right) for place in range(3)]


def test_a_failed_grader_gives_no_reward_instead_of_a_wrong_one() -> None:
    for judge in (MixedJudge(SECTION, Failing(), None), right_or_wrong(Failing())):
        [reward] = judge([NUMBER], [r"\boxed{7}"])
        assert reward.value is None and not reward.right


def test_a_domain_that_the_recipe_does_not_name_has_the_usual_rewards() -> None:
    code = Problem("codefn", "code", "f", "", "", "f", (TestCase((1,), 1), TestCase((2,), 2)))
    verdict = Verdict("wrong", 1, 2)
    reward = MixedJudge(SECTION, RuleJudge(), None)._of_problem(Prompt.of(code), "```python\n```", verdict)
    assert reward.sources == {"rule": 0.0, "format": 0.1, "language": 0.2}


def test_partial_credit_and_length_where_the_recipe_asks_for_them() -> None:
    section = ReinforceSection(rewards={"code": {"rule": 1.0, "tests": 0.5, "length": 2.0}})
    rules = RuleJudge(RewardsSection(short=10, long=30))
    judge = MixedJudge(section, rules, None)
    code = Prompt.of(Problem("codefn", "code", "f", "", "", "f", (TestCase((1,), 1),)))
    for text, length in (("x" * 10, 1.0), ("x" * 20, 0.5), ("x" * 31, 0.0)):
        reward = judge._of_problem(code, text, Verdict("timeout", 1, 4))
        assert reward.sources == {"rule": 0.0, "tests": 0.125, "length": 2 * length}
        assert reward.value == pytest.approx(sum(reward.sources.values())) and reward.verdict == "timeout"


OWN = """
def brevity(question, answer):
    return 1 - min(1, len(answer) / 100)

def nonsense(question, answer):
    return float("nan")

def broken(question, answer):
    raise KeyError(question)
"""


def test_a_reward_of_ones_own_is_one_function(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    section = ReinforceSection(rewards={"math": {"rule": 1.0, f"{path}:brevity": 0.5}})
    answer = r"\boxed{7}" + " " * 41
    [reward] = MixedJudge(section, RuleJudge(), None)([NUMBER], [answer])
    assert reward.sources == {"rule": 1.0, f"{path}:brevity": pytest.approx(0.25)}
    for name, words in (("nonsense", "finite"), ("broken", "KeyError"), ("absent", "no function absent")):
        section = ReinforceSection(rewards={"math": {f"{path}:{name}": 1.0}})
        with pytest.raises(UserError, match=words):
            MixedJudge(section, RuleJudge(), None)([NUMBER], ["x"])
    with pytest.raises(UserError, match="does not exist"):
        load_own_reward(f"{tmp_path}/nowhere.py:brevity")
    path.write_text("def (")
    with pytest.raises(UserError, match="SyntaxError"):
        load_own_reward(f"{path}:brevity")


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ({"math": {"model": 1.0}}, "sources there are format, judge, language, length, rule, tests"),
        ({"everyday": {"rule": 1.0}}, "sources there are judge, language, length, manner, model"),
        ({"math": {"rule": 0.0}}, "nothing could be learned"),
        ({"math": {"judge": 1.0}}, "reinforce.judge"),
        ({"poetry": {"rule": 1.0}}, "poetry"),
    ],
)
def test_rewards_that_cannot_be_are_refused(rewards: dict[str, dict[str, float]], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ReinforceSection.model_validate({"rewards": rewards})


def test_an_iteration_asks_its_share_of_wishes_whatever_was_asked_before() -> None:
    pool = ProblemPool(ProblemSetSection(families={"maxn": 1}), 30, 0)
    wishes = [wish_prompt(said) for said in asked_conversations(Recipe())]
    prompts = asked(pool, 10, 0.3, wishes, 5)
    first = prompts(4)
    assert [p.problem is None for p in first] == [False] * 7 + [True] * 3
    assert all(p.messages[-1].role == "user" for p in first)
    many = [p for iteration in range(18) for p in prompts(iteration) if p.problem is None]
    assert Counter(right_kind(p.category) for p in many) == {"harmful": 12, "harmless": 30, "unanswerable": 12}
    prompts(2)
    assert prompts(4) == first != prompts(5) and asked(pool, 10, 0.3, wishes, 6)(4) != first
    assert all(p.problem is not None for p in asked(pool, 10, 0.0, wishes, 5)(0))


def test_a_share_below_one_wish_an_iteration_is_asked_over_the_iterations() -> None:
    pool = ProblemPool(ProblemSetSection(families={"maxn": 1}), 30, 0)
    wishes = [wish_prompt(said) for said in asked_conversations(Recipe())]
    for count, everyday, wanted in ((4, 0.1, 36), (5, 0.3, 135), (100, 0.29, 2610)):
        prompts = asked(pool, count, everyday, wishes, 5)
        made = [prompts(iteration) for iteration in range(90)]
        assert {len(iteration) for iteration in made} == {count}
        kinds = Counter(right_kind(p.category) for iteration in made for p in iteration if p.problem is None)
        assert kinds == {"harmless": wanted * 5 // 9, "harmful": wanted * 2 // 9, "unanswerable": wanted * 2 // 9}
        assert len({sum(p.problem is None for p in iteration) for iteration in made}) == 1 + (count < 100)
        assert prompts(7) == made[7]
