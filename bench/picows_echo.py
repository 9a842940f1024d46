"""The floor of tick to order: a picows client on uvloop that answers each text frame with a prepared one.

    python bench/picows_echo.py ws://127.0.0.1:4711/

Always true here: nothing is read of a text frame. A binary frame holds, in decimal text, how many bytes an answer has.
"""

from __future__ import annotations

import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

TEXT, BINARY = WSMsgType.TEXT, WSMsgType.BINARY


class Echo(WSListener):
    """Answers."""

    def __init__(self) -> None:
        self.answer = b""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == TEXT:
            transport.send(TEXT, self.answer)
        elif kind == BINARY:
            self.answer = b"x" * int(frame.get_payload_as_bytes())
        elif kind == WSMsgType.CLOSE:
            transport.disconnect()


async def main(url: str) -> None:
    transport, _ = await ws_connect(Echo, url)
    await transport.wait_disconnected()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
