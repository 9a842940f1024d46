"""The floor of POST /api/orders: a bare Starlette + msgspec handler in the service's uvicorn set-up.

    python bench/floor.py PORT ANSWER_BYTES

It decodes the same body into a struct and answers a JSON document of the size that the service answers. It checks
nothing, remembers nothing and sends nothing anywhere: no service built on this stack can be faster.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tbx.http.service import server_config


class Body(msgspec.Struct, rename="camel"):
    """The order as it is sent."""

    pair: str
    side: str
    type: str
    quantity: float
    exchange: str | None = None


class Document(msgspec.Struct, rename="camel"):
    """The answer: the order, and filler up to the size that is wanted."""

    pair: str
    side: str
    type: str
    quantity: float
    exchange: str | None
    filler: str


def app(answer_bytes: int) -> Starlette:
    decode = msgspec.json.Decoder(Body).decode
    encode = msgspec.json.Encoder().encode
    least = len(encode(Document("BTC_USDT", "buy", "market", 0.0002, "binance", "")))
    filler = "x" * max(0, answer_bytes - least)

    async def place(request: Request) -> Response:
        body = decode(await request.body())
        document = Document(body.pair, body.side, body.type, body.quantity, body.exchange, filler)
        return Response(encode(document), 201, media_type="application/json")

    async def ready(_: Request) -> Response:
        return Response(b"{}", media_type="application/json")

    return Starlette(routes=[Route("/api/orders", place, methods=["POST"]), Route("/readyz", ready)])


async def serve(port: int, answer_bytes: int) -> None:
    config = server_config(app(answer_bytes))
    config.host, config.port = "127.0.0.1", port
    await uvicorn.Server(config).serve()


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), int(sys.argv[2])))


if __name__ == "__main__":
    main()
