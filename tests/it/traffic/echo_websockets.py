"""Echoes over WebSockets of the package `websockets`, each of which reconnects when the server says 1001 (going away).

Arguments: the URL, the certificate to trust or "-", the number of WebSockets, and how often each of them is sent away
before its end. Prints the number of messages that came back. A message that was not echoed before the 1001 is sent again
on the next WebSocket. Anything else that goes wrong is an exception.
"""

import asyncio
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

PAUSE = 0.005


async def echo(url, context, times):
    echoed = away = 0
    while away < times:
        before = echoed
        # The name in the URL is that of the certificate; the address is always that of the server under test.
        async with connect(url, host="127.0.0.1", ssl=context) as socket:
            try:
                while True:
                    await socket.send(str(echoed))
                    answer = await socket.recv()
                    if answer != str(echoed):
                        raise RuntimeError(f"{echoed} came back as {answer}")
                    echoed += 1
                    await asyncio.sleep(PAUSE)
            except ConnectionClosed as closed:
                if closed.rcvd is None or closed.rcvd.code != 1001:
                    raise
                # A WebSocket that had no time for an echo shows nothing.
                away += echoed > before
    return echoed


async def main(url, certificate, sockets, times):
    context = None if certificate == "-" else ssl.create_default_context(cafile=certificate)
    echoed = await asyncio.gather(*(echo(url, context, times) for _ in range(sockets)))
    print(sum(echoed))


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
