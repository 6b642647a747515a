"""The stage `review`: what goes before people, what may be trained on, and that a person's word wins, against a plain rule."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapience.corpus.chat import Message
from sapience.posttraining import review
from sapience.posttraining.samples import Sample, read_samples, write_samples
from sapience.recipe import Recipe, UserError
from sapience.review.queue import ReviewQueue, queue_url
from sapience.run import StageContext

ROOT = Path(__file__).resolve().parent.parent.parent
WRITTEN, DRAFTED = "written by the project", "drafted by big at http://127.0.0.1/v1"


def sample(kind: Any, question: str, answer: str, source: str, *before: Message) -> Sample:
    turns = (*before, Message("user", question), Message("assistant", answer))
    return Sample(turns, kind, source, family="advice" if kind == "everyday" else "sums", language="en")


ORIGINAL = [sample("original", f"{n} + 4?", f"{n + 4}", "expert math") for n in range(3)]
REASONED = [sample("reasoned", "7 × 6?", "Seven sixes are 42.", "expert math", Message("system", "Think first."))]
EVERYDAY = [sample("everyday", f"Advice {n}?", f"Do {n}.", WRITTEN) for n in range(3)] + [
    sample("everyday", "And my name?", "It is Ada.", WRITTEN, Message("user", "I am Ada."), Message("assistant", "Hi!"))
]
MACHINE = [sample("everyday", f"Advice {n}?", f"Perhaps {n}, at length.", DRAFTED) for n in range(3)]
FILES = {"original": ORIGINAL, "reasoned": REASONED, "everyday": EVERYDAY, "drafts": MACHINE}


@contextmanager
def quiet(description: str, total: int | None) -> Any:
    yield None


def context(
    run: Path, unreviewed: str = "none", files: dict[str, list[Sample]] | None = None, **section: Any
) -> StageContext:
    for name, samples in (FILES if files is None else files).items():
        (run / "distill").mkdir(exist_ok=True, parents=True)
        write_samples(run / "distill" / f"{name}.jsonl", samples)
    (run / "review").mkdir(exist_ok=True, parents=True)
    recipe = Recipe.model_validate({"review": {"unreviewed": unreviewed, **section}})
    return StageContext(recipe, run, run / "review", {"distill": run / "distill"}, quiet)


def collected(run: Path) -> list[Sample]:
    return read_samples(run / "review" / "samples.jsonl")


def say(run: Path, *words: tuple[Sample, str, str, str]) -> None:
    """Sample, who, verdict, the answer in its place."""
    queue = ReviewQueue.open(queue_url(run))
    for judged, name, verdict, answer in words:
        queue.decide(identity(judged), name, verdict, answer)  # type: ignore[arg-type]
    queue.close()


def identity(judged: Sample) -> str:
    return review._draft(judged).identity


def waiting(run: Path) -> set[str]:
    queue = ReviewQueue.open(queue_url(run))
    found = set(queue.standings())
    queue.close()
    return found


@pytest.mark.parametrize(
    ("unreviewed", "before_people", "passing"),
    [
        ("none", EVERYDAY + MACHINE, []),
        ("written", MACHINE, EVERYDAY),
        ("all", MACHINE, EVERYDAY + MACHINE),
    ],
)
def test_what_waits_and_what_passes(
    unreviewed: str, before_people: list[Sample], passing: list[Sample], tmp_path: Path
) -> None:
    figures = review.run(context(tmp_path, unreviewed))
    assert waiting(tmp_path) == set(map(identity, before_people))
    made = collected(tmp_path)
    assert made[:4] == ORIGINAL + REASONED
    assert [(s.messages, s.source) for s in made[4:]] == [(s.messages, f"{s.source}; not reviewed") for s in passing]
    assert figures == {
        "samples": 4 + len(passing), "by_kind": {"original": 3, "reasoned": 1, "everyday": len(passing)},
        "waiting": len(before_people), "accepted": 0, "edited": 0, "rejected": 0, "unreviewed": len(passing),
        "agreement": None, "kappa": None, "not_shown": 0,
    }  # fmt: skip
    assert json.loads(json.dumps(figures)) == figures
    assert review.run(context(tmp_path, unreviewed)) == figures, "a second time changes nothing"
    assert collected(tmp_path) == made


def test_people_accept_edit_and_reject(tmp_path: Path) -> None:
    review.run(context(tmp_path))
    say(
        tmp_path,
        (EVERYDAY[0], "ada", "accept", ""), (EVERYDAY[0], "bo", "accept", ""),
        (EVERYDAY[3], "ada", "edit", "Your name is Ada."),
        (MACHINE[0], "ada", "reject", ""), (MACHINE[0], "bo", "reject", ""),
        (MACHINE[1], "bo", "accept", ""),
    )  # fmt: skip
    figures = review.run(context(tmp_path))
    named = {s.messages: (s.source, s.kind, s.family, s.language) for s in collected(tmp_path) if s.kind == "everyday"}
    assert named == {
        EVERYDAY[0].messages: (f"{WRITTEN}; accepted by ada, bo", "everyday", "advice", "en"),
        (*EVERYDAY[3].messages[:-1], Message("assistant", "Your name is Ada.")): (
            f"{WRITTEN}; edited by ada", "everyday", "advice", "en",
        ),
        MACHINE[1].messages: (f"{DRAFTED}; accepted by bo", "everyday", "advice", "en"),
    }  # fmt: skip
    assert (figures["accepted"], figures["edited"], figures["rejected"], figures["waiting"]) == (2, 1, 1, 3)
    assert (figures["unreviewed"], figures["by_kind"]["everyday"]) == (0, 3)
    assert (figures["agreement"], figures["kappa"]) == (1.0, 1.0)


def test_a_persons_word_wins_over_what_is_let_through(tmp_path: Path) -> None:
    review.run(context(tmp_path))
    say(
        tmp_path,
        (EVERYDAY[0], "ada", "reject", ""),
        (EVERYDAY[1], "ada", "edit", "Do it twice."),
        (EVERYDAY[2], "ada", "accept", ""),
        (MACHINE[0], "ada", "reject", ""),
        (MACHINE[1], "ada", "edit", "Perhaps."),
    )
    review.run(context(tmp_path, "all"))
    answers = {s.answer: s.source for s in collected(tmp_path) if s.kind == "everyday"}
    assert answers == {
        "Do it twice.": f"{WRITTEN}; edited by ada",
        "Do 2.": f"{WRITTEN}; accepted by ada",
        "It is Ada.": f"{WRITTEN}; not reviewed",
        "Perhaps.": f"{DRAFTED}; edited by ada",
        "Perhaps 2, at length.": f"{DRAFTED}; not reviewed",
    }


VERDICTS = st.sampled_from(["accept", "edit", "reject"])


@settings(deadline=None, max_examples=15)
@given(
    words=st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["ada", "bo", "cy"]), VERDICTS), max_size=12),
    votes=st.integers(1, 3),
    unreviewed=st.sampled_from(["none", "written", "all"]),
)
def test_every_answer_by_the_rule(
    tmp_path_factory: pytest.TempPathFactory, words: list[tuple[int, str, str]], votes: int, unreviewed: str
) -> None:
    """The rule told plainly, for each answer by itself: enough people and a majority decide; until then it passes if its
    kind may and nobody is against it."""
    run = tmp_path_factory.mktemp("run")
    answers = EVERYDAY + MACHINE
    review.run(context(run))
    say(run, *((answers[item], name, verdict, "Written anew.") for item, name, verdict in words))
    expected = {}
    for number, one in enumerate(answers):
        last = list({name: verdict for item, name, verdict in words if item == number}.values())
        accept, edit, reject = (last.count(verdict) for verdict in ("accept", "edit", "reject"))
        may = unreviewed == "all" or (unreviewed == "written" and one in EVERYDAY)
        if len(last) >= votes and reject > accept + edit:
            continue
        if len(last) >= votes and accept + edit > reject and accept != edit:
            answer, how = (one.answer, "accepted") if accept > edit else ("Written anew.", "edited")
        elif may and not edit and not reject:
            answer, how = one.answer, "not reviewed"
        else:
            continue
        expected[*one.messages[:-1], Message("assistant", answer)] = how
    figures = review.run(context(run, unreviewed, votes=votes))
    found = {s.messages: s.source for s in collected(run) if s.kind == "everyday"}
    assert set(found) == set(expected)
    assert all(expected[messages] in source for messages, source in found.items())
    assert figures["samples"] == len(collected(run)) == len(ORIGINAL) + len(REASONED) + len(expected)
    assert figures["unreviewed"] == list(expected.values()).count("not reviewed")


# Equal conversations, earlier rounds, what cannot be shown


def test_the_same_conversation_is_trained_on_once(tmp_path: Path) -> None:
    twin = sample("everyday", "Advice 0?", "Do 0.", DRAFTED)
    asked = sample("everyday", "0 + 4?", "4", WRITTEN)
    files = {"original": ORIGINAL, "everyday": [EVERYDAY[0], EVERYDAY[0], asked], "drafts": [twin]}
    figures = review.run(context(tmp_path, "all", files))
    assert [s.source for s in collected(tmp_path)] == ["expert math"] * 3 + [f"{WRITTEN}; not reviewed"]
    assert (figures["samples"], figures["unreviewed"], figures["waiting"]) == (4, 1, 1)
    say(tmp_path, (twin, "ada", "accept", ""))
    review.run(context(tmp_path, "none", files))
    assert [s.source for s in collected(tmp_path)][3:] == [f"{DRAFTED}; accepted by ada"], "who put it in first"
    say(tmp_path, (twin, "ada", "reject", ""))
    assert review.run(context(tmp_path, "all", files))["samples"] == 3, "one word is about both"


def test_of_equal_answers_the_written_one_is_put_up(tmp_path: Path) -> None:
    files = {
        "original": ORIGINAL,
        "everyday": [EVERYDAY[0]],
        "drafts": [sample("everyday", "Advice 0?", "Do 0.", DRAFTED)],
    }
    review.run(context(tmp_path, files=files))
    say(tmp_path, (EVERYDAY[0], "ada", "accept", ""))
    review.run(context(tmp_path, files=files))
    assert collected(tmp_path)[-1].source == f"{WRITTEN}; accepted by ada"


def test_an_edit_into_what_is_there_already(tmp_path: Path) -> None:
    review.run(context(tmp_path))
    say(tmp_path, (MACHINE[0], "ada", "edit", "Do 0."), (EVERYDAY[0], "ada", "accept", ""))
    figures = review.run(context(tmp_path))
    assert [s.answer for s in collected(tmp_path)].count("Do 0.") == 1
    assert figures["by_kind"]["everyday"] == 1


def test_answers_of_earlier_rounds_stay(tmp_path: Path) -> None:
    review.run(context(tmp_path))
    say(tmp_path, (MACHINE[0], "ada", "accept", ""))
    newer = sample("everyday", "A new wish?", "A new answer.", DRAFTED)
    figures = review.run(context(tmp_path, files={**FILES, "drafts": [newer]}))
    assert MACHINE[0].messages in [s.messages for s in collected(tmp_path)]
    assert (figures["accepted"], figures["waiting"]) == (1, len(EVERYDAY) + len(MACHINE))


def test_what_no_page_can_show_is_counted(tmp_path: Path) -> None:
    bad = [sample("everyday", "What is this?", "a \0 b", DRAFTED)]
    figures = review.run(context(tmp_path, "all", {**FILES, "drafts": bad + MACHINE}))
    assert (figures["not_shown"], figures["waiting"]) == (1, 3)
    assert all("\0" not in s.answer for s in collected(tmp_path))


# Little or nothing there


@pytest.mark.parametrize("files", [{"original": ORIGINAL}, {"original": ORIGINAL, "reasoned": [], "drafts": []}])
def test_no_queue_is_made_where_nothing_needs_one(files: dict[str, list[Sample]], tmp_path: Path) -> None:
    figures = review.run(context(tmp_path, files=files))
    assert collected(tmp_path) == ORIGINAL
    assert (figures["samples"], figures["waiting"]) == (3, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"distill", "review"}


def test_written_conversations_let_through_need_no_queue(tmp_path: Path) -> None:
    figures = review.run(context(tmp_path, "written", {"everyday": EVERYDAY}))
    assert (figures["samples"], figures["unreviewed"]) == (4, 4)
    assert not list(tmp_path.glob("review.sqlite*"))


def test_nothing_to_train_on_says_how_many_wait(tmp_path: Path) -> None:
    files = {"everyday": EVERYDAY, "drafts": MACHINE}
    with pytest.raises(UserError, match=f"7 everyday answers wait .*`sapience review {tmp_path}`"):
        review.run(context(tmp_path, files=files))
    assert len(waiting(tmp_path)) == 7, "they are before people all the same"
    say(tmp_path, *((one, "ada", "reject", "") for one in EVERYDAY + MACHINE))
    with pytest.raises(UserError, match="rejected all 7"):
        review.run(context(tmp_path, files=files))
    say(tmp_path, (EVERYDAY[1], "ada", "accept", ""))
    assert review.run(context(tmp_path, files=files))["samples"] == 1


def test_nothing_distilled_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"distill made no samples; set distill\.written"):
        review.run(context(tmp_path, files={}))
    assert not list(tmp_path.glob("review.sqlite*"))


def test_a_queue_at_an_address_of_its_own(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    figures = review.run(context(tmp_path / "run", url=url))
    assert figures["waiting"] == 7
    assert (tmp_path / "shared.sqlite").is_file()
    assert not list((tmp_path / "run").glob("*.sqlite"))
    with pytest.raises(UserError, match="no database address"):
        review.run(context(tmp_path / "run", url="nonsense"))


# Kill and resume

SCRIPT = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from sapience.posttraining import review
from sapience.recipe import Recipe
from sapience.run import StageContext

run, moment = Path(sys.argv[1]), sys.argv[2]
def die(*arguments, **named): os.kill(os.getpid(), signal.SIGKILL)
if moment == "after the queue":
    review.ReviewQueue.standings = die
else:
    whole = Path.replace
    Path.replace = die  # write_atomically's last step
review.run(StageContext(Recipe(), run, run / "review", {"distill": run / "distill"}, None))
"""


@pytest.mark.parametrize("moment", ["after the queue", "while writing"])
def test_a_kill_changes_nothing_of_the_end(moment: str, tmp_path: Path) -> None:
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    for run in (killed, straight):
        context(run)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(killed), moment], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == -signal.SIGKILL
    assert not (killed / "review" / "samples.jsonl").exists()
    assert review.run(context(killed)) == review.run(context(straight))
    assert collected(killed) == collected(straight)
    assert waiting(killed) == waiting(straight)
