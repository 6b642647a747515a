"""The review queue: items to judge and what people said of them, in SQLite or PostgreSQL.

Its two tables are in `tables`. Outcomes (a majority, a tie) are computed in one place, as SQL, so that the item handed out
next, the counts and the exports cannot disagree.

Writers come one after another: SQLite begins them with BEGIN IMMEDIATE, PostgreSQL with an advisory lock. People write a
few times a minute, so a queue is short, and adding, handing out and judging need no cleverer locks. Readers never wait.

Not covered: withdrawing an item that a stage no longer wants; SQLite on a network file system (use PostgreSQL);
millions of items (handing one out counts the words on all items of its kind).
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session

from sapience.recipe import UserError
from sapience.review import records
from sapience.review.records import Action, Choice, Chosen, Comparison, Decision, Draft, RefusedWord, UnknownItem
from sapience.review.tables import Item, Table, Word

LEASE = timedelta(minutes=10)
"""How long an item handed to one person is kept from others while other items wait."""
BATCH = 500
BUSY_SECONDS = 30
WRITER_LOCK = 0x5A91E4CE
"""Key of PostgreSQL's advisory lock: one writer of a review queue at a time."""
DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg", "postgresql+psycopg2")

Kind = Literal["draft", "comparison"]


def queue_url(run: Path) -> str:
    """Where a run's queue lies unless told otherwise: beside the stages' folders, which a changed recipe empties."""
    return f"sqlite:///{run / 'review.sqlite'}"


class ReviewQueue:
    """What waits for people and what they said. Safe to share between threads, and between processes by its URL."""

    def __init__(self, engine: sa.Engine, votes: int, clock: Callable[[], datetime]) -> None:
        self.votes = votes
        self._engine = engine
        self._writer = engine.execution_options(writes=True)
        self._clock = clock

    @classmethod
    def open(cls, url: str, votes: int = 1, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Self:
        """Connect and make what is missing. An item waits until it has `votes` people's words and no tie.

        Raises UserError for an address that cannot be used.
        """
        address = _parse(url)
        shown = address.render_as_string(hide_password=True)
        try:
            engine = _connect(address)
            queue = cls(engine, votes, clock)
            with queue._writer.begin() as connection:
                Table.metadata.create_all(connection)
        except ImportError as error:
            remedy = "pip install 'psycopg[binary]'" if address.get_backend_name() == "postgresql" else str(error)
            raise UserError(f"the database driver for {shown} is not installed: {remedy}") from None
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise UserError(
                f"the review queue {shown} cannot be opened ({cause}): see that the folder or server is there and may "
                "be written to, or give another address"
            ) from None
        return queue

    @staticmethod
    def exists(url: str) -> bool:
        """Whether a queue may be at an address already: False only for a SQLite file that is not there, which `open` would
        make. Raises UserError for what is no address.
        """
        address = _parse(url)
        return address.get_backend_name() != "sqlite" or Path(str(address.database)).is_file()

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def add_drafts(self, drafts: Iterable[Draft]) -> int:
        """Put answers into the queue; those already there are left alone. Returns how many are new."""
        return self._add(_item("draft", draft, draft.answer, None) for draft in drafts)

    def add_comparisons(self, comparisons: Iterable[Comparison]) -> int:
        """Put pairs of answers into the queue; those already there are left alone. Returns how many are new."""
        return self._add(_item("comparison", pair, pair.first, pair.second) for pair in comparisons)

    def next_draft(self, annotator: str) -> Draft | None:
        """The answer this person should judge now, held for them for ten minutes; None where they have seen all."""
        item = self._next("draft", annotator)
        return _draft(item) if item else None

    def next_comparison(self, annotator: str) -> Comparison | None:
        """The pair this person should compare now, held for them for ten minutes; None where they have seen all."""
        item = self._next("comparison", annotator)
        return _comparison(item) if item else None

    def decide(self, identity: str, annotator: str, action: Action, answer: str = "", reason: str = "") -> Decision:
        """Take a person's word on a draft. An edit that changes nothing is an acceptance.

        Raises UnknownItem and RefusedWord.
        """
        edited = records.tidy(answer) if action == "edit" else ""
        if action not in get_args(Action):
            raise RefusedWord(f"{action} is no decision: accept, edit or reject")
        if action == "edit" and not edited:
            raise RefusedWord("an edit needs a text: write the answer as it should be, or reject it")
        with self._write() as session:
            item = _find(session, "draft", identity)
            if action == "edit" and edited == records.tidy(item.first):
                action, edited = "accept", ""
            return _decision(item, self._say(session, item, annotator, action, edited, reason))

    def choose(self, identity: str, annotator: str, chosen: Chosen, reason: str) -> Choice:
        """Take a person's preference, with the reason the reward model learns from.

        Raises UnknownItem and RefusedWord.
        """
        if chosen not in get_args(Chosen):
            raise RefusedWord(f"{chosen} is no choice: first, second or equal")
        if len(reason.strip()) < records.SHORTEST_REASON:
            raise RefusedWord(f"a comparison needs a reason: at least {records.SHORTEST_REASON} characters")
        with self._write() as session:
            item = _find(session, "comparison", identity)
            return _choice(item, self._say(session, item, annotator, chosen, "", reason))

    def undo(self, annotator: str) -> Decision | Choice | None:
        """Withdraw a person's latest word, hand them its item again and return what was withdrawn."""
        annotator = records.check_annotator(annotator)
        with self._write() as session:
            mine = sa.select(Word).where(Word.annotator == annotator, ~Word.withdrawn)
            word = session.scalars(mine.order_by(Word.row.desc()).limit(1)).one_or_none()
            if word is None:
                return None
            word.withdrawn = True
            item = session.get_one(Item, word.item)
            self._hold(session, item, annotator)
            return _decision(item, word) if item.kind == "draft" else _choice(item, word)

    def reviewed(self, votes: int | None = None) -> list[records.Reviewed]:
        """Answers that more people keep than reject, as the majority of those who keep them wants them, by identity.

        Ties and answers with fewer than `votes` words (by default the queue's) are not yet there. Of several different
        edits the one most people wrote counts; where all differ, that of the first annotator by name.
        """
        made = []
        for item, outcome, words in self._settled("draft", ("accept", "edit"), votes):
            standing = [word for word in words if word.verdict == outcome]
            texts = [word.answer for word in standing] if outcome == "edit" else [item.first] * len(standing)
            answer = max(texts, key=texts.count)
            people = tuple(word.annotator for word, text in zip(standing, texts, strict=True) if text == answer)
            done = "accepted" if outcome == "accept" else "edited"
            provenance = f"{item.source}; {done} by {', '.join(people)}"
            made.append(records.Reviewed(_draft(item), answer, people, provenance))
        return made

    def standings(self) -> dict[str, records.Standing]:
        """Every draft by identity: what was said of it and what it came to, with the queue's number of votes."""
        tally = _tally()
        said = [sa.func.coalesce(tally.c[action], 0) for action in get_args(Action)]
        query = sa.select(Item.identity, _outcome(tally, self.votes), *said).outerjoin(tally, tally.c.item == Item.row)
        with Session(self._engine) as session:
            found = session.execute(query.where(Item.kind == "draft")).all()
        return {
            identity: records.Standing(cast("Action | None", outcome), *counts) for identity, outcome, *counts in found
        }

    def preferences(self, votes: int | None = None) -> list[records.Preference]:
        """Pairs of which more people prefer one answer than the other or neither, by identity; reasons one a line."""
        made = []
        for item, outcome, words in self._settled("comparison", ("first", "second"), votes):
            standing = [word for word in words if word.verdict == outcome]
            pair = _comparison(item)
            chosen, rejected = (pair.first, pair.second) if outcome == "first" else (pair.second, pair.first)
            reason = "\n".join(dict.fromkeys(word.reason for word in standing))
            people = tuple(word.annotator for word in standing)
            made.append(
                records.Preference(
                    pair.messages, chosen, rejected, reason, people, pair.language, pair.category, pair.source
                )
            )
        return made

    def agreement(self) -> records.Agreement:
        """How far people agree, by everybody's last word."""
        said: dict[str, dict[int, dict[str, str]]] = {kind: defaultdict(dict) for kind in get_args(Kind)}
        query = sa.select(Item.kind, Word.item, Word.annotator, Word.verdict).join_from(Word, Item)
        with Session(self._engine) as session:
            for kind, row, annotator, verdict in session.execute(query.where(_standing())):
                said[kind][row][annotator] = verdict
        return records.Agreement(*(records.measure_agreement(said[kind].values()) for kind in ("draft", "comparison")))

    def compared(self) -> set[str]:
        """Identities of the pairs that people have settled, if only as equally good."""
        return {item.identity for item, *_ in self._settled("comparison", get_args(Chosen), None)}

    def counts(self) -> records.Counts:
        """How far the review is, with the number of votes the queue was opened with."""
        tally = _tally()
        outcome = _outcome(tally, self.votes).label("outcome")
        each = sa.select(Item.kind, outcome).outerjoin(tally, tally.c.item == Item.row).subquery()
        people = sa.select(sa.func.count(Word.annotator.distinct())).where(~Word.withdrawn)
        number: dict[str | None, int] = defaultdict(int)
        compared = 0
        with Session(self._engine) as session:
            query = sa.select(each.c.kind, each.c.outcome, sa.func.count()).group_by(each.c.kind, each.c.outcome)
            for kind, settled, count in session.execute(query):
                number[settled] += count
                compared += count if kind == "comparison" and settled else 0
            annotators = session.scalars(people).one()
        return records.Counts(number[None], number["accept"], number["edit"], number["reject"], compared, annotators)

    def fingerprint(self, kind: Kind | None = None) -> str:
        """16 hex digits over everybody's last words, on items of one kind or all, whatever the order or time they were
        said in; empty where nothing was said, as there is no queue before somebody needs one.
        """
        query = sa.select(Item.identity, Word.annotator, Word.verdict, Word.answer, Word.reason).join_from(Word, Item)
        query = query.where(_standing())
        if kind is not None:
            query = query.where(Item.kind == kind)
        with Session(self._engine) as session:
            said = sorted(tuple(row) for row in session.execute(query))
        return hashlib.sha256(json.dumps(said).encode("utf-8")).hexdigest()[:16] if said else ""

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def _add(self, items: Iterator[Item]) -> int:
        """Store what is new, in batches, each wholly or not at all."""
        added = 0
        while batch := {item.identity: item for item in islice(items, BATCH)}:
            with self._write() as session:
                known = set(session.scalars(sa.select(Item.identity).where(Item.identity.in_(batch))))
                new = [item for identity, item in batch.items() if identity not in known]
                session.add_all(new)
                added += len(new)
        return added

    def _next(self, kind: Kind, annotator: str) -> Item | None:
        """Choose and hold an item: unsettled before settled, then free before held by others, then the one already on
        the person's screen, then the fewest words, then the order of arrival.
        """
        annotator = records.check_annotator(annotator)
        now = self._clock().timestamp()
        tally = _tally()
        said = sa.select(Word.row).where(Word.item == Item.row, Word.annotator == annotator, ~Word.withdrawn).exists()
        taken = sa.and_(Item.holder != annotator, Item.held_until > now)
        mine = sa.and_(Item.holder == annotator, Item.held_until > now)
        query = (
            sa.select(Item)
            .outerjoin(tally, tally.c.item == Item.row)
            .where(Item.kind == kind, ~said)
            .order_by(
                sa.case((_outcome(tally, self.votes).is_(None), 0), else_=1),
                sa.case((taken, 1), else_=0),
                sa.case((mine, 0), else_=1),
                sa.func.coalesce(tally.c.people, 0),
                Item.row,
            )
            .limit(1)
        )
        with self._write() as session:
            item = session.scalars(query).one_or_none()
            if item is not None:
                self._hold(session, item, annotator)
            return item

    def _hold(self, session: Session, item: Item, annotator: str) -> None:
        """Keep an item for a person, and no other of its kind."""
        session.execute(sa.update(Item).where(Item.holder == annotator, Item.kind == item.kind).values(holder=None))
        item.holder, item.held_until = annotator, (self._clock() + LEASE).timestamp()

    def _say(self, session: Session, item: Item, annotator: str, verdict: str, answer: str, reason: str) -> Word:
        """Add a word, unless it repeats the person's last one on this item, as a request sent twice does."""
        annotator, reason = records.check_annotator(annotator), records.tidy(reason)
        if not records.storable(answer + reason):
            raise RefusedWord("the text holds a character that cannot be stored: NUL or half a surrogate pair")
        mine = sa.select(Word).where(Word.item == item.row, Word.annotator == annotator, ~Word.withdrawn)
        last = session.scalars(mine.order_by(Word.row.desc()).limit(1)).one_or_none()
        if item.holder == annotator:
            item.holder = None
        if last is not None and (last.verdict, last.answer, last.reason) == (verdict, answer, reason):
            return last
        at = self._clock().timestamp()
        word = Word(item=item.row, annotator=annotator, verdict=verdict, answer=answer, reason=reason, at=at)
        session.add(word)
        return word

    def _settled(
        self, kind: Kind, outcomes: tuple[str, ...], votes: int | None
    ) -> Iterator[tuple[Item, str, list[Word]]]:
        """Items with one of these outcomes, by identity, each with everybody's last words, by name."""
        tally = _tally()
        outcome = _outcome(tally, self.votes if votes is None else votes).label("outcome")
        query = sa.select(Item, outcome).join(tally, tally.c.item == Item.row)
        words: dict[int, list[Word]] = defaultdict(list)
        with Session(self._engine) as session:
            found = session.execute(query.where(Item.kind == kind, outcome.in_(outcomes))).all()
            for word in session.scalars(sa.select(Word).where(_standing())):
                words[word.item].append(word)
        for item, settled in sorted(found, key=lambda pair: pair[0].identity):
            yield item, str(settled), sorted(words[item.row], key=lambda word: word.annotator)


def _parse(url: str) -> URL:
    try:
        address = sa.make_url(url)
    except ArgumentError:
        raise UserError(
            f"{url!r} is no database address: write sqlite:///PATH or postgresql://USER@HOST/NAME"
        ) from None
    if address.drivername not in DRIVERS:
        raise UserError(
            f"a review queue cannot live in {address.drivername}: write sqlite:///PATH or postgresql://USER@HOST/NAME"
        )
    if address.get_backend_name() == "sqlite" and address.database in (None, "", ":memory:"):
        raise UserError("a queue in memory would forget what people said: name a file, sqlite:///PATH")
    return address.set(drivername="postgresql+psycopg") if address.drivername == "postgresql" else address


def _connect(address: URL) -> sa.Engine:
    """An engine that keeps what it confirms and lets one writer in at a time."""
    if address.get_backend_name() == "postgresql":
        engine = sa.create_engine(address, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    else:
        engine = sa.create_engine(address, connect_args={"timeout": BUSY_SECONDS})
        sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _prepare_sqlite(connection: Any, record: object) -> None:
    """Write-ahead log, so that readers and a writer do not wait for one another; each commit on disk before it counts."""
    connection.isolation_level = None  # the driver begins no transactions of its own: _begin does
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    """Begin as the only writer, or as a reader who sees one moment, however many queries follow."""
    writes = connection.get_execution_options().get("writes", False)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
    elif writes:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")


def _standing() -> sa.ColumnElement[bool]:
    """Condition of a word that counts: its annotator's last on the item that was not withdrawn."""
    return Word.row.in_(sa.select(sa.func.max(Word.row)).where(~Word.withdrawn).group_by(Word.item, Word.annotator))


def _tally() -> sa.Subquery:
    """Per item: how many people said something, and how many said each verdict."""
    verdicts = (*get_args(Action), *get_args(Chosen))
    sums = [sa.func.sum(sa.case((Word.verdict == verdict, 1), else_=0)).label(verdict) for verdict in verdicts]
    query = sa.select(Word.item, sa.func.count().label("people"), *sums).where(_standing()).group_by(Word.item)
    return query.subquery()


def _outcome(tally: sa.Subquery, votes: int) -> sa.ColumnElement[str | None]:
    """What an item's words come to; NULL while there are fewer than `votes` (at least one) or they are tied.

    A draft: kept or rejected by majority, then accepted or edited by majority of those who keep it. A comparison: what
    more people said than anything else.
    """
    accept, edit, reject, first, second, equal = (tally.c[name] for name in (*get_args(Action), *get_args(Chosen)))
    most = {
        "reject": reject > accept + edit,
        "accept": sa.and_(accept + edit > reject, accept > edit),
        "edit": sa.and_(accept + edit > reject, edit > accept),
        "first": sa.and_(first > second, first > equal),
        "second": sa.and_(second > first, second > equal),
        "equal": sa.and_(equal > first, equal > second),
    }
    few = sa.or_(tally.c.people.is_(None), tally.c.people < max(votes, 1))
    named = [(condition, sa.literal(name)) for name, condition in most.items()]
    return sa.case((few, sa.null()), *named, else_=sa.null())


def _find(session: Session, kind: Kind, identity: str) -> Item:
    item = session.scalars(sa.select(Item).where(Item.kind == kind, Item.identity == identity)).one_or_none()
    if item is None:
        raise UnknownItem(f"there is no {kind} {identity!r} in this queue")
    return item


def _item(kind: Kind, record: Draft | Comparison, first: str, second: str | None) -> Item:
    """A row to store; `messages` become lists in JSON."""
    shared = {name: getattr(record, name) for name in ("identity", "messages", "language", "category", "source")}
    return Item(kind=kind, first=first, second=second, **shared)


def _messages(item: Item) -> records.Messages:
    return tuple((role, content) for role, content in item.messages)


def _draft(item: Item) -> Draft:
    return Draft(item.identity, _messages(item), item.first, item.language, item.category, item.source)


def _comparison(item: Item) -> Comparison:
    first, second = item.first, cast("str", item.second)
    return Comparison(item.identity, _messages(item), first, second, item.language, item.category, item.source)


def _decision(item: Item, word: Word) -> Decision:
    action = cast("Action", word.verdict)
    answer = {"accept": item.first, "edit": word.answer, "reject": ""}[action]
    return Decision(_draft(item), word.annotator, action, answer, word.reason, datetime.fromtimestamp(word.at, UTC))


def _choice(item: Item, word: Word) -> Choice:
    chosen, at = cast("Chosen", word.verdict), datetime.fromtimestamp(word.at, UTC)
    return Choice(_comparison(item), word.annotator, chosen, word.reason, at)
