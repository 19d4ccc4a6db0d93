"""The broadcast server of the websockets documentation: a set of clients and the library's own broadcast()."""

import asyncio

from websockets.asyncio.server import broadcast, serve
from websockets.exceptions import ConnectionClosedError

clients = set()


async def stay(socket):
    # asyncio sets TCP_NODELAY on every connection itself.
    name = "{}:{}".format(*socket.remote_address)
    clients.add(socket)
    print(f"New connection from {name}")
    try:
        async for text in socket:
            print(f"Received from {name}: {text}")
            broadcast(clients - {socket}, f"{name}: {text}")
    except ConnectionClosedError:
        pass  # gone without a close frame
    finally:
        clients.remove(socket)
        print(f"Client {name} disconnected")


async def main():
    async with serve(stay, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        print(f"listening on port {port}", flush=True)
        await server.serve_forever()


asyncio.run(main())
