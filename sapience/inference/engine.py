"""The generation engine: requests come at any time, and every step reads a piece of their prompts and draws a token an answer.

Answers begin as soon as there is room for them and leave when they end, so that a few long ones do not hold the rest
(continuous batching); long prompts are read a piece a step, so that others go on meanwhile. Latents lie in pages that all
prompts with the same beginning share, several answers to a prompt and the next turn of a conversation among them. An answer
gets all its pages when it begins: once begun, it never has to make room.

A model with a prediction module can draft the next tokens (`drafting`), where that pays (`pace`).

What is not covered: the choice of who comes first (it is who came first).
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from sapience.inference.answers import Answer, Prompt, Started, chooser_of, end_of, logits_of, rows_of, table_of
from sapience.inference.cycle import asked_for, by_calls, take_cycle
from sapience.inference.drafting import draft, read_prompts
from sapience.inference.fastest_network import network_of
from sapience.inference.graph_network import GraphNetwork
from sapience.inference.network import Passed, Places, check_tokens
from sapience.inference.pace import Pace
from sapience.inference.pages import PAGE, Pages, names_of, pages_for
from sapience.inference.requests import End, Request, Token
from sapience.inference.sampling import choose
from sapience.model.transformer import Transformer

CACHE_BYTES = 2 << 30
"""Of latents, unless told otherwise."""


@dataclass
class Counters:
    """What an engine has done so far."""

    prompt_tokens: int = 0
    """Of prompts that were read, what was cached included."""
    cached_tokens: int = 0
    """Of these, what did not have to be read again."""
    drawn_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class Engine:
    """Draws from one model. `submit` and `cancel` are for any thread, `step` for one."""

    def __init__(
        self,
        model: Transformer,
        *,
        rows: int = 64,
        positions: int | None = None,
        context: int | None = None,
        depth: int = 0,
        eight_bits: bool = False,
        recorded: bool = True,
    ) -> None:
        """At most `rows` answers at once; latents of `positions` tokens are kept (by default what fits into 2 GiB, but no
        more than `rows` full contexts); no sequence is longer than `context` (by default what the model was made for). Up to
        `depth` tokens are drafted ahead where the model has a prediction module and that is faster. `eight_bits`: weights on a
        CPU are rounded to 8 bits, which is faster where reading them takes the time. `recorded`: on a GPU a step is
        compiled and recorded for every size it comes in, which pays for whoever draws for minutes. Raises UserError where
        weights cannot be rounded."""
        model.refresh()
        config = model.config
        self.model, self.rows = model, rows
        self.context = context or config.max_position_embeddings
        if positions is None:
            width = (config.kv_lora_rank + config.qk_rope_head_dim) * len(model.layers) * model.number.itemsize
            positions = max(self.context + PAGE, min(rows * self.context, CACHE_BYTES // width))
        self.counters = Counters()
        self._pages = Pages(pages_for(positions))
        self.depth = depth if model.predictions else 0
        self._pace = Pace()
        self._network = network_of(model, self._pages.count, self.context, self.depth > 0, eight_bits, recorded)
        self._lock = threading.Lock()
        self._arrived: deque[Request] = deque()
        self._unwanted: set[Request] = set()
        self._waiting: deque[Prompt] = deque()
        self._prompts: list[Prompt] = []
        """Begun, in the order in which they came; complete or not."""
        self._answers: list[Answer] = []
        self._table_RP = torch.zeros(0, 0, dtype=torch.int32)
        """Pages of the answers that have drawn before."""
        self._started: Started | None = None
        """The next step of these answers, which the device has been given already."""

    @property
    def waiting(self) -> int:
        """Requests whose prompts nobody has begun to read."""
        return len(self._arrived) + len(self._waiting)

    @property
    def running(self) -> int:
        """Answers being drawn, and those whose prompts are being read."""
        return len(self._answers) + sum(prompt.request.samples - prompt.begun for prompt in self._prompts)

    def submit(self, request: Request) -> None:
        """Take a request. Raises ValueError where it can never be answered, IndexError for a token that is none."""
        check_tokens(torch.tensor([*request.prompt, *request.sampling.logit_bias]), self.model.config.vocab_size)
        length = len(request.prompt) + request.limit
        if length > self.context:
            raise ValueError(
                f"a prompt of {len(request.prompt)} tokens and an answer of {request.limit} do not fit into the model's "
                f"context of {self.context}: ask for fewer"
            )
        several = request.samples > 1
        needed = pages_for(length) + several * (pages_for(len(request.prompt)) - len(request.prompt) // PAGE)
        if needed > self._pages.count:
            raise ValueError(
                f"{length} tokens need {needed} pages of {PAGE} positions and there are {self._pages.count}: ask for fewer, "
                "or give the engine more positions"
            )
        with self._lock:
            self._arrived.append(request)

    def cancel(self, request: Request) -> None:
        """End the request's answers wherever they are."""
        with self._lock:
            self._unwanted.add(request)

    def forget(self) -> None:
        """Keep no beginnings for prompts to come."""
        self._pages.forget()

    @torch.inference_mode()
    def step(self) -> bool:
        """Read a piece of the prompts that are due and draw a token for every answer; False where there is nothing to do."""
        self._listen()
        self._admit()
        if not self._prompts and not self._answers:
            self._started = None
            return False
        self._read()
        self._begin()
        self._draw()
        return True

    def _listen(self) -> None:
        """Take what other threads have left."""
        with self._lock:
            arrived, unwanted = list(self._arrived), self._unwanted
            self._arrived.clear()
            self._unwanted = set()
        self._waiting.extend(Prompt(request, names_of(request.prompt)) for request in arrived)
        if not unwanted:
            return
        for prompt in [one for one in self._waiting if one.request in unwanted]:
            self._waiting.remove(prompt)
            self._cancel_rest(prompt)
        for prompt in [one for one in self._prompts if one.request in unwanted]:
            self._prompts.remove(prompt)
            self._pages.release([*prompt.pages, *prompt.reserved])
            self._cancel_rest(prompt)
        self._leave([(one, "cancelled") for one in self._answers if one.prompt.request in unwanted])

    def _cancel_rest(self, prompt: Prompt) -> None:
        for sample in range(prompt.begun, prompt.request.samples):
            prompt.request.on_end(sample, "cancelled")

    def _admit(self) -> None:
        """Begin prompts as long as there is room for their answers; first come those whose prompts have been read."""
        if any(prompt.complete for prompt in self._prompts):
            return
        room = self.rows - self.running
        promised = {name for prompt in self._prompts if not prompt.complete for name in prompt.names}
        held = []
        while self._waiting and room > 0:
            prompt = self._waiting.popleft()
            request = prompt.request
            # The last token is read in any case: its logits are wanted.
            names = prompt.names[: (len(request.prompt) - 1) // PAGE]
            known = self._pages.find(names)
            if len(known) < len(names) and names[len(known)] in promised:
                held.append(prompt)  # what another is reading just now need not be read twice
                continue
            several = request.samples > 1
            of_prompt = pages_for(len(request.prompt) + (0 if several else request.limit)) - len(known)
            self._pages.share(known)
            if of_prompt + several * prompt.own > self._pages.free:
                self._pages.release(known)
                held.append(prompt)
                break
            prompt.pages = [*known, *self._pages.take(of_prompt)]
            prompt.reserved = self._pages.take(several * prompt.own)
            prompt.read = len(known) * PAGE
            self.counters.prompt_tokens += len(request.prompt)
            self.counters.cached_tokens += prompt.read
            request.cached = prompt.read
            self._prompts.append(prompt)
            promised.update(prompt.names)
            room -= request.samples
        self._waiting.extendleft(reversed(held))

    def _read(self) -> None:
        """A piece of the prompts, at most as much as is worth one call."""
        pieces: list[tuple[Prompt, int]] = []
        left = self._network.at_once
        for prompt in self._prompts:
            if not prompt.complete and left > 0:
                pieces.append((prompt, min(left, len(prompt.request.prompt) - prompt.read)))
                left -= pieces[-1][1]
        if not pieces:
            return
        tokens = [
            token for prompt, count in pieces for token in prompt.request.prompt[prompt.read : prompt.read + count]
        ]
        counts = torch.tensor([count for _, count in pieces])
        ends = counts.cumsum(0) - 1
        begun = torch.tensor([prompt.read for prompt, _ in pieces])
        positions = torch.arange(len(tokens)) + (begun - (ends + 1 - counts)).repeat_interleave(counts)
        rows = torch.arange(len(pieces)).repeat_interleave(counts)
        places = Places(positions, rows, table_of([prompt.pages for prompt, _ in pieces]))
        done = torch.tensor([prompt.read + count == len(prompt.request.prompt) for prompt, count in pieces])
        passed = self._network.forward(torch.tensor(tokens), places, ends[done])
        if passed.states_ND is not None:
            whole = [(prompt.request.prompt, prompt.read, prompt.read + count) for prompt, count in pieces]
            read_prompts(self._network, whole, places, passed.states_ND)
        for prompt, count in pieces:
            prompt.read += count
        complete = ((prompt, int(end)) for (prompt, _), end in zip(pieces, ends, strict=True) if prompt.complete)
        for (prompt, end), logits_V in zip(complete, passed.logits, strict=True):
            prompt.logits_V = logits_V
            if passed.states_ND is not None:
                prompt.state_1D = passed.states_ND[end : end + 1]
            for page, name in zip(prompt.pages, prompt.names, strict=False):
                self._pages.name(page, name)

    def _begin(self) -> None:
        """Begin answers to prompts that have been read."""
        source: list[int] = []
        target: list[int] = []
        for prompt in [one for one in self._prompts if one.complete]:
            request = prompt.request
            whole, rest = divmod(len(request.prompt), PAGE)
            while prompt.begun < request.samples and len(self._answers) < self.rows:
                pages = prompt.pages
                if request.samples > 1:
                    own, prompt.reserved = prompt.reserved, []
                    if not own and self._pages.free < prompt.own:
                        break
                    own = own or self._pages.take(prompt.own)
                    self._pages.share(prompt.pages[:whole])
                    pages = [*prompt.pages[:whole], *own]
                    if rest:
                        source.append(prompt.pages[whole])
                        target.append(own[0])
                chooser = chooser_of(request, prompt.begun)
                begin, limit = len(request.prompt), request.limit
                answer = Answer(pages, chooser, begin, limit, prompt=prompt, sample=prompt.begun)
                if prompt.state_1D is not None:
                    answer.unseen.append(prompt.state_1D)
                self._answers.append(answer)
                prompt.begun += 1
            if prompt.begun == request.samples:
                self._prompts.remove(prompt)
                if request.samples > 1:
                    self._pages.release(prompt.pages)
        if target:
            self._network.copy(source, target)

    def _draw(self) -> None:
        """A token for every answer, and more where drafts are what is drawn."""
        answers, before = self._answers, self.counters.drawn_tokens
        if not answers:
            return
        began, checked = time.perf_counter(), any(answer.drafts for answer in answers)
        older = [answer for answer in answers if answer.tokens]
        started, self._started = self._started, None
        if older and started is not None:
            began = started.began
        drawn: dict[Answer, list[Token | None]] = {}
        if older and started is not None and started.results_NR is not None:
            drafts = take_cycle(started, older, drawn)
            fresh = answers[len(older) :]
            if fresh:
                self._accept(fresh, torch.stack([logits_of(answer.prompt) for answer in fresh]), {}, drawn)
            for answer in older:
                self._count(answer, drawn[answer])
                answer.drafts = drafts[answer]
        else:
            self._draw_by_calls(answers, older, started, drawn)
        going = self._give(drawn)
        self._count_pace(answers, going, checked, time.perf_counter() - began, self.counters.drawn_tokens - before)

    def _draw_by_calls(
        self,
        answers: list[Answer],
        older: list[Answer],
        started: "Started | None",
        drawn: dict[Answer, list[Token | None]],
    ) -> None:
        """By a pass that has been started or is asked for now."""
        counts = [1 + len(answer.drafts) for answer in older]
        parts = []
        states_ND: Tensor | None = None
        if older:
            passed = self._forward(older, counts) if started is None else rows_of(started, older)
            parts.append(passed.logits)
            states_ND = passed.states_ND
        parts += [logits_of(answer.prompt).unsqueeze(0) for answer in answers[len(older) :]]
        logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        starts = dict(zip(older, accumulate(counts, initial=0), strict=False))
        starts |= {answer: sum(counts) + i for i, answer in enumerate(answers[len(older) :])}
        self._accept(answers, logits, starts, drawn)
        for answer in older:
            more = self._count(answer, drawn[answer])
            answer.drafts = []
            if states_ND is not None:  # before every token that was drawn just now
                start = starts[answer]
                answer.unseen.append(states_ND[start : start + more])

    def _count(self, answer: Answer, drawn: Sequence[Token | None]) -> int:
        """Count drafts and those that were right; how many tokens were drawn."""
        request, more = answer.prompt.request, sum(token is not None for token in drawn)
        accepted = sum(
            token is not None and token.id == guess for token, guess in zip(drawn, answer.drafts, strict=False)
        )
        self.counters.drafted_tokens += len(answer.drafts)
        self.counters.accepted_tokens += accepted
        request.drafted += len(answer.drafts)
        request.accepted += accepted
        return more

    def _count_pace(
        self, answers: Sequence[Answer], going: Sequence[Answer], checked: bool, seconds: float, tokens: int
    ) -> None:
        """After a step: whether drafting pays. Where the host waits for every call, drafts for the next step are made now."""
        if not self.depth:
            return
        making = any(answer.drafts for answer in going)
        if self._started is None and going and self._pace.drafts(len(going)):
            began = time.perf_counter()
            self._draft(going)
            making, seconds = True, seconds + time.perf_counter() - began
        if making == checked:
            self._pace.took(len(answers), making, seconds, tokens)

    def _draft(self, answers: Sequence[Answer]) -> None:
        """Guesses for those whose last tokens the module has not seen."""
        lacking = [row for row, answer in enumerate(answers) if answer.unseen]
        if lacking:
            draft(self._network, [answers[row] for row in lacking], self._table(answers)[lacking], self.depth)

    def _start(self, going: list[Answer]) -> None:
        """Give a device that works by itself the next step of these answers, before anybody hears of this one."""
        if not going or not self._network.asynchronous:
            return
        making = self.depth > 0 and self._pace.drafts(len(going))
        if making and not all(answer.chooser.plain for answer in going):
            return
        began, table_RP = time.perf_counter(), self._table(going)
        if making:
            self._draft(going)
            ends = [PAGE * len(answer.pages) for answer in going]
            asked, network = asked_for(going, ends, table_RP[: len(going)], self.depth), self._network
            results_NR = network.cycle(asked) if isinstance(network, GraphNetwork) else by_calls(network, asked)
            self._started = Started(going, began, results_NR=results_NR)
            return
        for answer in going:
            answer.drafts = []
        self._started = Started(going, began, passed=self._forward(going, [1] * len(going)))

    def _forward(self, older: Sequence[Answer], counts: Sequence[int]) -> Passed:
        """The last token of each answer and its drafts."""
        tokens = [token for answer in older for token in (answer.tokens[-1], *answer.drafts)]
        positions = torch.tensor([answer.begin + len(answer.tokens) - 1 for answer in older])
        rows = torch.arange(len(older))
        if len(tokens) > len(older):
            each = torch.tensor(counts)
            ahead = torch.arange(len(tokens)) - (each.cumsum(0) - each).repeat_interleave(each)
            positions, rows = positions.repeat_interleave(each) + ahead, rows.repeat_interleave(each)
        places = Places(positions, rows, self._table(older))
        return self._network.forward(torch.tensor(tokens), places, torch.arange(len(tokens)))

    def _table(self, answers: Sequence[Answer]) -> Tensor:
        """Their pages; made anew where others draw than before."""
        if len(self._table_RP) < len(answers):
            self._table_RP = table_of([answer.pages for answer in answers])
        return self._table_RP

    def _accept(
        self,
        answers: Sequence[Answer],
        logits: Tensor,
        starts: dict[Answer, int],
        drawn: dict[Answer, list[Token | None]],
    ) -> None:
        """Draw, and go on with those whose draft was just that; row starts[answer] is the first of each."""
        ahead = 0
        for answer in answers:
            drawn[answer] = []
        while answers:
            part = logits if len(answers) == len(logits) else logits[[starts[answer] + ahead for answer in answers]]
            going = []
            for answer, token in zip(answers, choose(part, [answer.chooser for answer in answers]), strict=True):
                drawn[answer].append(token)
                right = token is not None and ahead < len(answer.drafts) and token.id == answer.drafts[ahead]
                if right and end_of(answer, drawn[answer]) is None:
                    going.append(answer)
            answers = going
            ahead += 1

    def _give(self, drawn: dict[Answer, list[Token | None]]) -> list[Answer]:
        """The tokens to those who asked, and the end where it has come; who goes on."""
        ended: list[tuple[Answer, End]] = []
        going = []
        for answer, tokens in drawn.items():
            end = end_of(answer, tokens)
            new = [token.id for token in tokens if token is not None]
            answer.tokens += new
            self.counters.drawn_tokens += len(new)
            if end is None:
                going.append(answer)
            else:
                ended.append((answer, end))
        if ended:
            self._table_RP = self._table_RP[:0]
        self._start(going)
        table_RP = self._table_RP
        for answer, tokens in drawn.items():
            for token in tokens:
                if token is not None:
                    answer.prompt.request.on_token(answer.sample, token)
        self._leave(ended)
        self._table_RP = table_RP
        return going

    def _leave(self, ended: Sequence[tuple[Answer, End]]) -> None:
        if not ended:
            return
        gone = {answer for answer, _ in ended}
        self._answers = [answer for answer in self._answers if answer not in gone]
        self._table_RP = self._table_RP[:0]
        for answer, end in ended:
            prompt = answer.prompt
            start = len(prompt.request.prompt) // PAGE
            read = [*prompt.request.prompt[start * PAGE :], *answer.tokens[:-1]]
            for page, name in zip(answer.pages[start:], names_of(read, (prompt.names or [b""])[-1]), strict=False):
                self._pages.name(page, name)
            self._pages.release(answer.pages)
            prompt.request.on_end(answer.sample, end)
