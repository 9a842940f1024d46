"""The floor of the 200 symbols: a picows client on uvloop that takes the same streams and keeps nothing.

    python bench/follow_floor.py ws://127.0.0.1:4711 SECONDS STREAM...

Prints one JSON object: of each depth frame, how late it came, in nanoseconds from the event's time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from array import array

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

EVENT_MS, EVENT_MS_DIGITS = b'"e":"depthUpdate","E":', 13
NS_IN_MS = 1_000_000
AT_ONCE = 100  # streams named in one message
BETWEEN_S = 0.25  # five messages a second are allowed, pongs included
SETTLE_S = 1.0


class Taker(WSListener):
    def __init__(self) -> None:
        self.lags = array("q")
        self.counting = False

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            raw = frame.get_payload_as_bytes()
            at = raw.find(EVENT_MS)
            if at >= 0 and self.counting:
                begin = at + len(EVENT_MS)
                self.lags.append(time.time_ns() - int(raw[begin : begin + EVENT_MS_DIGITS]) * NS_IN_MS)
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())


async def main(url: str, seconds: float, streams: list[str]) -> None:
    taker = Taker()
    transport, _ = await ws_connect(lambda: taker, url + "/stream", enable_auto_pong=False)
    for number, begin in enumerate(range(0, len(streams), AT_ONCE), 1):
        message = {"method": "SUBSCRIBE", "params": streams[begin : begin + AT_ONCE], "id": number}
        transport.send(WSMsgType.TEXT, json.dumps(message).encode())
        await asyncio.sleep(BETWEEN_S)
    await asyncio.sleep(SETTLE_S)
    taker.counting = True
    await asyncio.sleep(seconds)
    taker.counting = False
    print(json.dumps(taker.lags.tolist()))
    transport.disconnect()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
