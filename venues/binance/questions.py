"""What became of an order: asked of the venue, and what its answer proves.

Always true here: each question is answered once. An order is said not to have been taken only after the venue has said
twice that there is none, with questions whose own timestamps it accepted, `MISSED_APART_MS` apart, and both after
every frame that could have placed it is dealt with (`Errands.done_ms`) and `MARGIN_MS` more. An order that is found
under our id and cannot be ours changes nothing here: that is told as VenueContradicted. What was asked and answered
about an order in doubt is told as VenueAsked, with the time at which asking again may prove more.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from ...core.kernel.clock import MS_NS, SECOND_NS, Clock, Timer
from ...core.model.errors import Nonsense, Unreachable, VenueError
from ...core.model.messages import AskAtVenue, VenueAsked, VenueContradicted
from ..client import QueryAnswer
from .codec_replies import KnownOrder
from .codec_requests import Requests, Terms
from .connection import Connection
from .errands import NEVER_MS, Errands, remember
from .names import Names
from .scripts import WEIGHTS, Found, Said, Wanted, asked_for, found, list_open, query_order, status_words

# Judged: for a question's clock that may be ahead, and for what the venue writes later than it answers.
MARGIN_MS: Final = 5_000
MISSED_APART_MS: Final = 2_000  # between the two times that an order must not be found
SINGLY_MAX: Final = 10  # orders asked about at one moment; of more, lists are asked for first
LEFT_MAX: Final = 50  # of those that no list answers, asked about singly at once; the rest comes in its turn
REPAIR_NS: Final = 2 * SECOND_NS  # until an order is asked about again
REPAIRS_MAX: Final = 1_000  # orders that are asked about at a time; more: the connection is made anew


class Question(msgspec.Struct):
    """An order that is asked about, and who is told."""

    wanted: Wanted
    answer: QueryAnswer

    @property
    def doubted(self) -> bool:
        return self.wanted.asked is not None and self.wanted.asked.doubted


class Questions:
    """Asks about orders: each by itself, or from lists where many are asked about at one moment."""

    def __init__(
        self,
        venue: str,
        clock: Clock,
        connection: Connection,
        errands: Errands,
        names: Names,
        by_pair: Mapping[str, Terms],
        *,
        tell: Callable[[Any], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self.venue = venue
        self.clock = clock
        self.connection = connection
        self.requests: Requests = connection.requests
        self.errands = errands
        self.names = names
        self.tell = tell
        self.on_trouble = on_trouble
        self._by_pair = by_pair
        self._gathered: list[Question] = []
        self._gathering: Timer | None = None
        self._missed: dict[str, int] = {}  # client id -> timestamp of the first question that found no such order
        self._contradicted: dict[str, None] = {}  # client ids under which another order stands, and that were told
        self._repairs: dict[str, str] = {}  # client id -> pair, of orders that are asked about here

    def query(self, asked: AskAtVenue, answer: QueryAnswer) -> None:
        """As `VenueClient.query`: by the venue's id where it is known, else by ours."""
        terms = self._terms(asked.client_id, asked.pair, answer)
        if terms is None:
            return
        order_id = self.names.id_of(asked.client_id)
        if asked.venue_order_id is not None and asked.venue_order_id.isdecimal():
            order_id = int(asked.venue_order_id)
            self.names.note_asked(terms.symbol, order_id, asked.client_id)
        self._gather(Question(Wanted(asked.client_id, terms, order_id, asked), answer))

    def stop(self) -> None:
        """What is not asked yet is not known."""
        self._repairs.clear()
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        questions, self._gathered = self._gathered, []
        for question in questions:
            question.answer(None)

    def _terms(self, client_id: str, pair: str, answer: QueryAnswer) -> Terms | None:
        terms = self._by_pair.get(pair)
        if terms is None:
            self.on_trouble(f"{self.venue} orders: {client_id} cannot be asked about: {pair} is not traded here")
            answer(None)
        return terms

    # --- many at a moment

    def _gather(self, question: Question) -> None:
        """After a reconnect each open order is asked about in one and the same moment: wait for its end."""
        self._gathered.append(question)
        if self._gathering is None:
            self._gathering = self.clock.call_in(0, self._ask)

    def _ask(self) -> None:
        questions, self._gathered, self._gathering = self._gathered, [], None
        if self.connection.link is None:
            away = Unreachable(f"not connected: {self.connection.reason}")
            for question in questions:
                self._told(question, None, away)
            return
        if len(questions) <= SINGLY_MAX:
            for question in questions:
                self._ask_singly(question)
            return
        by_symbol: dict[str, list[Question]] = {}
        for question in questions:
            by_symbol.setdefault(question.wanted.terms.symbol, []).append(question)
        singly, listed = WEIGHTS["status"], WEIGHTS["open"]
        if sum(min(len(group) * singly, listed) for group in by_symbol.values()) > WEIGHTS["open of all"]:
            self._ask_for_list(None, questions, iter(range(LEFT_MAX)))
            return
        few = [question for group in by_symbol.values() if len(group) * singly <= listed for question in group]
        for question in few:
            self._ask_singly(question)
        room = iter(range(LEFT_MAX - len(few)))
        for group in by_symbol.values():
            if len(group) * singly > listed:
                self._ask_for_list(group[0].wanted.terms, group, room)

    def _ask_for_list(self, terms: Terms | None, questions: list[Question], room: Iterator[int]) -> None:
        """Of what is listed, orders are answered that have traded no more than is known; of the rest as many are asked
        about singly as there is room for, and the others are told to come again in their turn."""
        asked = "openOrders.status" if terms is None else f"openOrders.status symbol={terms.symbol}"

        def ended(orders: tuple[KnownOrder, ...] | None, error: VenueError | None) -> None:
            if isinstance(error, Nonsense):
                self.connection.note_nonsense(f"a list of open orders cannot be understood: {error}")
            by_id = {(order.symbol, order.order_id): order for order in orders or ()}
            by_name = {(order.symbol, order.client_order_id): order for order in orders or ()}
            for question in questions:
                wanted, symbol = question.wanted, question.wanted.terms.symbol
                if wanted.order_id is not None:
                    order = by_id.get((symbol, wanted.order_id))
                else:
                    order = by_name.get((symbol, wanted.client_id))
                if order is not None and self._answered_by(order, question, asked):
                    continue
                if next(room, None) is not None:
                    self._ask_singly(question)
                    continue
                listed = "it is not among the open orders" if order is None else "it has traded"
                words = listed if error is None else f"no answer: {error}"
                self._tell_asked(question, ((asked, words),), again_ns=0)
                question.answer(None)

        self.connection.talks.begin(list_open(self.requests, terms), ended)

    def _answered_by(self, order: KnownOrder, question: Question, asked: str) -> bool:
        """Whether a list has told all there is: not of an order that has traded more than is known, for a list names no
        trades, and what was executed without them is Nonsense."""
        wanted = question.wanted
        known_lots = (wanted.asked.filled_lots or 0) if wanted.asked is not None else 0
        try:
            told = found(order, (), wanted, self.venue, known_lots=known_lots)
            if question.doubted:
                said = (*told.said, (asked, status_words(order, wanted.terms.instrument)))
                told = msgspec.structs.replace(told, said=said)
        except Nonsense:
            return False
        self._told(question, told, None)
        return True

    # --- one

    def _ask_singly(self, question: Question) -> None:
        script = query_order(self.requests, question.wanted, self.venue)
        self.connection.talks.begin(script, partial(self._told, question))

    def _told(self, question: Question, told: Found | None, error: VenueError | None) -> None:
        client_id, answer = question.wanted.client_id, question.answer
        if told is None:
            if isinstance(error, Nonsense):
                self.connection.note_nonsense(f"what is said of {client_id} cannot be understood: {error}")
            # At a start nothing is connected yet and much may be open: routine questions leave no words then.
            if question.doubted or self.connection.link is not None:
                self._tell_asked(question, ((asked_for(question.wanted), f"no answer: {error}"),))
            answer(None)
        elif told.not_ours:
            self._contradict(client_id, told.not_ours)
            self._tell_asked(question, told.said)
            answer(None)
        elif told.missed_ms:
            proven = self._proven(client_id, told.missed_ms)
            self._tell_asked(question, told.said, None if proven else self._again_ns(client_id))
            answer(False if proven else None)
        else:
            if question.doubted:
                self._tell_asked(question, told.said)
            self.errands.known(client_id)
            self._missed.pop(client_id, None)
            if told.order is not None:
                self.names.note_found(told.order, client_id)
            for message in told.messages:
                self.tell(message)
            answer(told.taken)

    def _tell_asked(self, question: Question, said: tuple[Said, ...], again_ns: int | None = None) -> None:
        if question.wanted.asked is None:  # the core does not know that it was asked
            return
        for words, answer in said:
            self.tell(
                VenueAsked(
                    venue=self.venue,
                    client_id=question.wanted.client_id,
                    question=words,
                    answer=answer,
                    timestamp_ns=self.clock.now_ns(),
                    again_ns=again_ns,
                )
            )

    def _again_ns(self, client_id: str) -> int | None:
        """How long until a question that finds no such order proves more; None where that is not known."""
        done_ms, first_ms = self.errands.done_ms(client_id), self._missed.get(client_id)
        if done_ms >= NEVER_MS:
            return None
        at_ms = done_ms + MARGIN_MS + 1 if first_ms is None else first_ms + MISSED_APART_MS
        return max(at_ms - self.connection.server.now_ns() // MS_NS, 1) * MS_NS

    def _proven(self, client_id: str, asked_ms: int) -> bool:
        """Whether the order was not taken, and will not be: the venue did not know it at this time."""
        if asked_ms <= self.errands.done_ms(client_id) + MARGIN_MS:
            self._missed.pop(client_id, None)
            return False
        first_ms = self._missed.get(client_id)
        if first_ms is None:
            remember(self._missed, client_id, asked_ms)
            return False
        if asked_ms - first_ms < MISSED_APART_MS:
            return False
        self._missed.pop(client_id, None)
        self.errands.known(client_id)
        return True

    def _contradict(self, client_id: str, how: str) -> None:
        if client_id in self._contradicted:
            return
        remember(self._contradicted, client_id, None)
        self.on_trouble(f"{self.venue} orders: an order stands under our id {client_id} that is not ours: {how}")
        now_ns = self.clock.now_ns()
        self.tell(VenueContradicted(venue=self.venue, client_id=client_id, reason=how, timestamp_ns=now_ns))

    # --- after a report that could not be understood

    def repair(self, client_id: str, pair: str) -> None:
        """Ask about an order until the venue answers; its messages come as usual."""
        if client_id in self._repairs:
            return
        if len(self._repairs) >= REPAIRS_MAX:
            self._repairs.clear()
            if self.connection.link is not None:
                self.connection.link.close(f"more than {REPAIRS_MAX} reports could not be understood")
            return
        self._repairs[client_id] = pair
        self._ask_again(client_id, pair)

    def _ask_again(self, client_id: str, pair: str) -> None:
        if client_id not in self._repairs:
            return

        def answered(taken: bool | None) -> None:
            if taken is None:
                self.clock.call_in(REPAIR_NS, self._ask_again, client_id, pair)
            else:
                self._repairs.pop(client_id, None)

        terms = self._terms(client_id, pair, answered)
        if terms is not None:
            self._gather(Question(Wanted(client_id, terms, self.names.id_of(client_id)), answered))
