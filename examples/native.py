"""Print trades and best prices; after an interruption go on where it was: nothing missing or twice."""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

URL = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:9001/v1"
WISHES = {"id": 1, "kinds": ["trade", "l1"], "symbols": ["BTC-*"]}


async def follow(cursors: dict[str, str]) -> None:
    async with connect(URL) as socket:
        begin = {"op": "resume", "cursors": cursors} if cursors else {"op": "subscribe"}
        await socket.send(json.dumps(begin | WISHES))
        async for text in socket:
            message = json.loads(text)
            if event := message.get("event"):
                stream, _, place = message["cursor"].rpartition("/")
                cursors |= {} if message.get("snapshot") else {stream: place}  # a state is told again
                print(message["cursor"], event["kind"], event["symbol"], event.get("price"), flush=True)
            elif message.keys() & {"skipped", "rollback"} or message.get("op") == "error":
                print(text, file=sys.stderr, flush=True)
                cursors |= {of: span["after"] for of, span in message.get("rollback", {}).items()}
            cursors |= message.get("live", message.get("cursors", {}))  # all up to these has been told


async def main(cursors: dict[str, str]) -> None:
    while True:
        try:
            await follow(cursors)
        except (OSError, WebSocketException) as e:
            print(e, file=sys.stderr, flush=True)
        await asyncio.sleep(0.5)


asyncio.run(main({}))
