"""All measurements of one model, in order: held-out text, problems, repeated problems, wishes, prompts side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sapience.corpus.chat import ChatFormat
from sapience.corpus.tokenizer import Tokenizer
from sapience.evaluation.answers import (
    Said,
    family_scores,
    judged_answers,
    manner,
    overall_score,
    score_record,
    verdicts_by_family,
)
from sapience.evaluation.behaviour import behaviour_answers, behaviour_figures
from sapience.evaluation.bits_per_byte import bits_per_byte
from sapience.evaluation.few_shot import few_shot_answers
from sapience.evaluation.judging import Judge
from sapience.evaluation.measured_models import MeasuredModel
from sapience.evaluation.side_by_side import SideQuestion, chat_side_answers, plain_side_answers
from sapience.evaluation.text_figures import HeldOutText, domain_bits, draft_figures, needle_figures
from sapience.evaluation.zero_shot import consistency, zero_shot_answers
from sapience.model.huggingface import load_model
from sapience.problems.everyday import BehaviourPrompt
from sapience.problems.problem import Problem
from sapience.recipe.errors import UserError
from sapience.recipe.evaluate import EvaluateSection
from sapience.run import ProgressTask
from sapience.training.device import choose_device


@dataclass(frozen=True)
class Measurement:
    """All that is the same for every model."""

    section: EvaluateSection
    window: int
    seed: int
    held_out: HeldOutText
    problems: list[Problem]
    repeated: list[Problem]
    """Those that assistants are asked several times."""
    wishes: tuple[BehaviourPrompt, ...]
    questions: list[SideQuestion]
    judge: Judge
    token_folder: Path | None
    """Folder of the tokenizer stage: its tokenizer and the training tokens that bigrams are counted from."""
    solved: Mapping[str, Sequence[Problem]] = field(default_factory=dict)
    """Training problems of families that come from files, for base models' examples."""

    def work(self, model: MeasuredModel) -> int:
        """Steps of the progress bar for one model."""
        domains = len(self.held_out.texts)
        steps = len(_QUESTIONS)
        if model.kind != "expert":
            steps += domains
        if self.looks_far(model) and domains:
            steps += domains + len(self.section.needle_samples)
        return steps

    def looks_far(self, model: MeasuredModel) -> bool:
        """Whether MTP drafts and needles are measured on the model."""
        return model.kind == "base" or (model.kind == "assistant" and self.section.chat_needles)


_QUESTIONS = ("problems", "repeated problems", "wishes", "prompts side by side")


class Measuring:
    """One model while it is measured: what it gave so far, as JSON-able figures and a record of every sample."""

    def __init__(self, measured: MeasuredModel, measurement: Measurement, bar: ProgressTask) -> None:
        self.measured, self.measurement, self.bar = measured, measurement, bar
        self.section = measurement.section
        self.model = load_model(measured.folder, choose_device(self.section.device)).eval()
        tokenizer_file, own_tokens = _tokenizer_file(measured.folder, measurement.token_folder)
        self.tokenizer = Tokenizer.load(tokenizer_file)
        self.token_folder = measurement.token_folder if own_tokens else None
        self.figures: dict[str, Any] = {}
        self.samples: list[dict[str, Any]] = []

    def run(self) -> None:
        """All measurements that a model of this kind is due."""
        if self.measurement.held_out.texts:
            if self.measured.kind != "expert":
                self.read_text()
            if self.measurement.looks_far(self.measured):
                self.look_far()
        ask = self.ask_base if self.measured.kind == "base" else self.ask_assistant
        for step in _QUESTIONS:
            self.bar.advance(0, doing=step)
            ask(step)
            self.bar.advance(1)

    def read_text(self) -> None:
        """Bits per byte: of everything for a base model, of the beginning for an assistant, which base models have too."""
        held_out, window, batch = self.measurement.held_out, self.measurement.window, self.section.batch_tokens
        whole: dict[str, float] = {}
        beginning: dict[str, float] = {}
        for domain in held_out.texts:
            first = held_out.beginning(domain)
            if self.measured.kind == "base":
                bits = domain_bits(self.model, self.tokenizer, held_out, domain, window, batch)
                whole[domain], first_bits = bits
            else:
                first_bits = bits_per_byte(self.model, self.tokenizer, first, window, batch) if first else None
            if first_bits is not None:
                beginning[domain] = first_bits
            self.bar.advance(1, doing=f"bits per byte, {domain}")
        self.figures |= {"bits_per_byte": whole} if whole else {}
        self.figures |= {"bits_per_byte_beginning": beginning} if beginning else {}

    def look_far(self) -> None:
        """MTP drafts and the needle map."""
        held_out, section, window = self.measurement.held_out, self.section, self.measurement.window
        batch = section.batch_tokens
        drafts = draft_figures(self.model, self.tokenizer, held_out, self.token_folder, window, batch, self.bar)
        self.figures |= {"mtp": drafts} if drafts else {}
        seed = self.measurement.seed
        found, records = needle_figures(self.model, self.tokenizer, held_out.fillers, section, window, seed, self.bar)
        self.figures |= found
        self.samples += records

    def ask_base(self, step: str) -> None:
        """One kind of question, few-shot; a base model is asked neither repeatedly nor about wishes."""
        section, window, seed = self.section, self.measurement.window, self.measurement.seed
        if step == "problems":
            problems = self.measurement.problems
            self._file_answers(few_shot_answers(
                self.model, self.tokenizer, problems, shots=section.shots, window=window,
                answer_tokens=section.answer_tokens, seed=seed, solved=self.measurement.solved,
            ))  # fmt: skip
        elif step == "prompts side by side":
            questions = self.measurement.questions
            said = plain_side_answers(self.model, self.tokenizer, questions, section, window, seed)
            self.figures["side_by_side"] = said

    def ask_assistant(self, step: str) -> None:
        """One kind of question in the chat format; an expert is asked problems of its own domain only, and no wishes."""
        chat, seed, limit = ChatFormat(self.tokenizer), self.measurement.seed, self.section.chat_answer_tokens
        system = self.measured.system
        if step == "problems":
            problems = self.measured.own(self.measurement.problems)
            self._file_answers(
                zero_shot_answers(self.model, chat, problems, answer_tokens=limit, seed=seed, system=system)
            )
        elif step == "repeated problems" and (repeated := self.measured.own(self.measurement.repeated)):
            self.figures["answers"]["consistency"] = consistency(
                self.model, chat, repeated, self.section.repeats,
                temperature=self.section.repeat_temperature, answer_tokens=limit, seed=seed, system=system,
            )  # fmt: skip
        elif step == "wishes" and self.measurement.wishes and self.measured.kind == "assistant":
            answers = behaviour_answers(self.model, chat, self.measurement.wishes, limit, seed)
            self.figures["behaviour"] = behaviour_figures(answers)
            self.samples += [{"kind": "wish", **answer.record()} for answer in answers]
        elif step == "prompts side by side":
            own = [question for question in self.measurement.questions if self._answers(question)]
            said = iter(chat_side_answers(self.model, chat, own, limit, seed))
            self.figures["side_by_side"] = [
                next(said) if self._answers(question) else None for question in self.measurement.questions
            ]

    def _answers(self, question: SideQuestion) -> bool:
        """An expert answers problems of its own only."""
        return self.measured.kind != "expert" or bool(question.problem and self.measured.own([question.problem]))

    def _file_answers(self, said: list[Said]) -> None:
        if not said:
            return
        answers = judged_answers(said, self.measurement.judge, plain=self.measured.kind == "base")
        overall = overall_score(answers)
        self.figures |= {
            "accuracy": overall.accuracy,
            "interval": list(overall.interval),
            "families": {family: score_record(score) for family, score in family_scores(answers).items()},
            "answers": manner(answers),
            "verdicts": verdicts_by_family(answers),
        }
        self.samples += [{"kind": "problem", **answer.record()} for answer in answers]


def _tokenizer_file(folder: Path, run_folder: Path | None) -> tuple[Path, bool]:
    """The model's tokenizer.json, or the run's where it has none; and whether it is the run's."""
    own = folder / "tokenizer.json"
    runs = run_folder / "tokenizer.json" if run_folder is not None else None
    if own.is_file():
        return own, runs is not None and runs.read_bytes() == own.read_bytes()
    if runs is None:
        raise UserError(f"{folder} has no tokenizer.json and the run has none: put the model's tokenizer.json there")
    return runs, True
