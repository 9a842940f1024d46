"""The load of a round: people who place, change and cancel orders through the API, and a market that trades with them.

Always true here: a request goes out under its own clientOrderId, and goes out again under the same one until the
service has answered it, whatever breaks meanwhile. What was answered is what the books are held against: `acknowledged`
and `refused` are every request of this load once `finish` has returned, `wrong` are answers that must never be given.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import httpx

from ..live_processes import API_KEY, SYMBOLS

PLACING, CHANGING = 6, 2  # people of each kind
PAUSE_S = 0.03  # of each between two orders
AGAIN_S = 0.1  # until a request goes out again that was not answered for good
ANSWER_MAX_S = 5.0
PERSIST_MAX_S = 120.0  # an exchange that lost a frame takes no orders for 22 s or so
REPEATED = 0.05  # of the requests go out once more after their answer
MARKET_PAUSE_S = 0.06
MID = {"BTC_USDT": 60_000.0, "ETH_USDT": 3_000.0}
QUANTITY = {"BTC_USDT": (0.001, 3), "ETH_USDT": (0.02, 2)}  # the least, and its decimals
DRIFT = 0.012  # how far the market goes from where it was, either way


class Market:
    """The house of the exchange: it trades with what rests, and goes up and down."""

    def __init__(self, url: str, rng: random.Random) -> None:
        self.mid = dict(MID)
        self._rng = rng
        self._http = httpx.Client(base_url=url, timeout=ANSWER_MAX_S, trust_env=False)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        for pair in self.mid:
            self._control("price", symbol=SYMBOLS[pair], price=f"{self.mid[pair]:.2f}")
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self._http.close()

    def _run(self) -> None:
        rng = self._rng
        while not self._over.wait(MARKET_PAUSE_S):
            pair = rng.choice(list(self.mid))
            if rng.random() < 0.15:
                centre = MID[pair] * (1 + rng.uniform(-DRIFT, DRIFT))
                self.mid[pair] += (centre - self.mid[pair]) * 0.4
                self._control("price", symbol=SYMBOLS[pair], price=f"{self.mid[pair]:.2f}")
                continue
            side = rng.choice(("BUY", "SELL"))
            reach = self.mid[pair] * 0.003 * (1 if side == "BUY" else -1)
            least, decimals = QUANTITY[pair]
            quantity = least * rng.randint(1, 12)
            self._control(
                "deal",
                symbol=SYMBOLS[pair],
                side=side,
                price=f"{self.mid[pair] + reach:.2f}",
                qty=f"{quantity:.{decimals}f}",
            )

    def _control(self, command: str, **body: str) -> None:
        try:
            answer = self._http.post(f"/control/{command}", json=body)
        except httpx.TransportError:
            return  # the exchange stands still for a while
        assert answer.status_code == 200, answer.text


class Load:
    """The people of one round; where there are two services each asks the other when one does not answer or says that
    it is a standby. `taken_at` are when the requests were sent that were taken, on the monotonic clock."""

    def __init__(self, name: str, urls: Sequence[str], market: Market) -> None:
        self.name = name
        self.market = market
        self.acknowledged: dict[str, str] = {}  # clientOrderId -> orderId
        self.refused: dict[str, str] = {}  # clientOrderId -> code
        self.wrong: list[str] = []
        self.taken_at: list[float] = []
        self.changed = 0
        self._urls = list(urls)
        self._at = 0  # which of them answers
        self._over, self._hopeless = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._placing, args=(number,)) for number in range(PLACING)]
        self._threads += [threading.Thread(target=self._changing, args=(number,)) for number in range(CHANGING)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self, *, hopeless: bool = False) -> None:
        """No new orders; returns when every request under way has its answer, or where that is `hopeless` at once."""
        self._over.set()
        if hopeless:
            self._hopeless.set()
        for thread in self._threads:
            thread.join()

    def taken_since(self, moment: float) -> int:
        with self._lock:
            return sum(at > moment for at in self.taken_at)

    # --- people

    def _placing(self, number: int) -> None:
        rng, count = random.Random(f"{self.name}/{number}"), 0
        with self._client() as http:
            while not self._over.is_set():
                count += 1
                body = {**self._order(rng), "exchange": "binance", "clientOrderId": f"{self.name}.{number}.{count}"}
                self._persist(http, body, again=rng.random() < REPEATED)
                self._over.wait(PAUSE_S * rng.uniform(0.5, 1.5))

    def _order(self, rng: random.Random) -> dict[str, Any]:
        pair = rng.choice(list(MID))
        mid, side, (least, decimals) = self.market.mid[pair], rng.choice(("buy", "sell")), QUANTITY[pair]
        body: dict[str, Any] = {"pair": pair, "side": side, "quantity": f"{least * rng.randint(1, 5):.{decimals}f}"}
        kind = rng.random()
        if kind < 0.15:
            return {**body, "type": "market"}
        if kind < 0.25:
            exits = {"stopLoss": f"{mid * 0.996:.2f}", "takeProfit": f"{mid * 1.004:.2f}"}
            return {**body, "side": "buy", "type": "market", "trigger": rng.choice(("bid_ask", "last")), **exits}
        away = mid * rng.choice((-0.001, 0.0002, 0.0008, 0.002, 0.01))  # the first is to trade at once
        price = f"{mid - away if side == 'buy' else mid + away:.2f}"
        return {**body, "type": "limit", "price": price, "timeInForce": "IOC" if kind < 0.32 else "GTC"}

    def _persist(self, http: httpx.Client, body: dict[str, Any], *, again: bool) -> None:
        """Until it is answered for good; with `again` once more after that."""
        name, begun = body["clientOrderId"], time.monotonic()
        while time.monotonic() - begun < PERSIST_MAX_S and not self._hopeless.is_set():
            asked = time.monotonic()
            answer = self._ask(http, "POST", "/api/orders", body)
            if answer is None or answer.status_code == 503 or _code(answer) == "IDEMPOTENCY_IN_PROGRESS":
                time.sleep(AGAIN_S)  # as a client does that was told to come again
                continue
            self._answered(name, answer, asked)
            if not again:
                return
            again = False
        self._say(f"{name} was sent again and again for {PERSIST_MAX_S:g} s and never answered")

    def _answered(self, name: str, answer: httpx.Response, asked: float) -> None:
        with self._lock:
            if answer.status_code in (200, 201):
                order_id = str(answer.json()["orderId"])
                if self.acknowledged.setdefault(name, order_id) != order_id:
                    self.wrong.append(f"{name} was answered {self.acknowledged[name]}, and then {order_id}")
                if name in self.refused:
                    self.wrong.append(f"{name} was refused ({self.refused[name]}), and then taken as {order_id}")
                if answer.status_code == 201:  # 200 is a repeat of what was taken before
                    self.taken_at.append(asked)
            elif 400 <= answer.status_code < 500:
                self.refused[name] = _code(answer)
                if name in self.acknowledged:
                    self.wrong.append(f"{name} was taken, and then refused: {answer.text}")
            else:
                self.wrong.append(f"{name} was answered {answer.status_code}: {answer.text}")

    def _changing(self, number: int) -> None:
        """Cancels and amends what was taken; each until it is answered."""
        rng = random.Random(f"{self.name}/changing/{number}")
        with self._client() as http:
            while not self._over.wait(PAUSE_S):
                with self._lock:
                    recent = list(self.acknowledged.values())[-60:]
                if not recent:
                    continue
                order_id = rng.choice(recent)
                amended = rng.random() < 0.35
                self._change(http, order_id, self._amendment(rng) if amended else None)

    def _amendment(self, rng: random.Random) -> dict[str, str]:
        quantity = {"quantity": f"{0.001 * rng.randint(1, 4):.3f}"}
        price = {"price": f"{self.market.mid['BTC_USDT'] * rng.uniform(0.995, 1.005):.2f}"}
        return rng.choice((quantity, price, {**quantity, **price}))

    def _change(self, http: httpx.Client, order_id: str, amendment: dict[str, str] | None) -> None:
        path = f"/api/orders/{order_id}"
        begun = time.monotonic()
        while time.monotonic() - begun < PERSIST_MAX_S:
            answer = self._ask(http, "DELETE" if amendment is None else "PATCH", path, amendment)
            if answer is None or answer.status_code == 503:
                if self._over.wait(AGAIN_S):
                    return
                continue
            if answer.status_code in (404, 500):
                self._say(f"{order_id} was taken, and a change of it is answered {answer.status_code}: {answer.text}")
            self.changed += 1
            return

    # --- requests

    def _client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {API_KEY}"}
        return httpx.Client(timeout=ANSWER_MAX_S, trust_env=False, headers=headers)

    def _ask(self, http: httpx.Client, method: str, path: str, body: Any) -> httpx.Response | None:
        """None where there was no answer."""
        at = self._at
        answer = None
        try:
            answer = http.request(method, self._urls[at] + path, json=body)
        except httpx.TransportError:
            pass  # it was killed, stands still, or has not begun
        if answer is None or (answer.status_code == 503 and _code(answer) == "STANDBY"):
            self._at = (at + 1) % len(self._urls)
        return answer

    def _say(self, text: str) -> None:
        with self._lock:
            self.wrong.append(text)


def _code(answer: httpx.Response) -> str:
    """Of a refusal."""
    try:
        return str(answer.json().get("code", answer.status_code))
    except ValueError:
        return str(answer.status_code)
