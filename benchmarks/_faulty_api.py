"""A scoring API that answers in 200 ms, or not at all: the server of `scoring.py`, in a process of its own.

Every fault carries a number, 0.987, that no honest answer has: whoever takes a fault for an answer is seen.
What a request gets is decided by a seed and its place in the order of arrival.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import struct

POISON = 0.987
FAULTS = ("429", "500", "reset", "stall", "garbage", "truncated")


def score_of(text: str) -> float:
    """What an honest answer says: a number that belongs to the text."""
    return int(text) % 500 / 1000


def draw(dice: random.Random, faults: float) -> str:
    """What the next request gets: "answer", or one of the faults with that probability."""
    return dice.choice(FAULTS) if dice.random() < faults else "answer"


async def main() -> None:
    """Prints its port, then serves until it is killed. `GET /calls` tells what was given so far."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--delay", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    given: dict[str, int] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                if head.startswith("get"):
                    await answer(writer, 200, json.dumps(given).encode())
                    continue
                length = int(head.partition("content-length:")[2].split()[0])
                text = json.loads(await reader.readexactly(length))["answer"]
                what = draw(dice, options.faults)
                given[what] = given.get(what, 0) + 1
                await asyncio.sleep(10.0 if what == "stall" else options.delay)
                if what == "reset":
                    kill = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, kill)
                    return
                await reply(writer, what, text)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def reply(writer: asyncio.StreamWriter, what: str, text: str) -> None:
    """One answer, honest or not."""
    honest = json.dumps({"score": score_of(text)}).encode()
    poison = json.dumps({"score": POISON}).encode()
    if what == "429":
        await answer(writer, 429, poison, "Retry-After: 1\r\n")
    elif what == "500":
        await answer(writer, 500, poison)
    elif what == "garbage":
        await answer(writer, 200, b"<html><body>Score: %.3f</body></html>" % POISON)
    elif what == "truncated":
        await answer(writer, 200, poison[:-1])
    else:
        await answer(writer, 200, poison if what == "stall" else honest)


async def answer(writer: asyncio.StreamWriter, status: int, body: bytes, headers: str = "") -> None:
    """Writes one HTTP response."""
    head = f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}{headers}\r\n".encode() + body)
    await writer.drain()


if __name__ == "__main__":
    asyncio.run(main())
