"""Whether the connection of a driver has ended, without a question to the server."""

import select
from typing import Any


def is_readable(descriptor: int) -> bool:
    """Return whether there is something to read from a socket, or its end; waits for nothing."""
    if descriptor < 0:
        return True
    if not hasattr(select, "poll"):  # pragma: no cover - Windows, where select() has no limit on descriptors
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def has_ended(connection: Any) -> bool:
    """
    Return whether an idle connection of aiomysql, asyncmy, asyncpg or psycopg has ended.

    An idle server says nothing, so anything to read is the end, or the error that it sends before the end. The socket
    itself is asked: the event loop may not have run since.
    """
    pgconn = getattr(connection, "pgconn", None)
    if pgconn is not None:
        return bool(connection.closed) or is_readable(pgconn.socket)
    if hasattr(connection, "_transport"):
        transport = connection._transport  # asyncpg, asyncmy
    elif hasattr(connection, "_writer"):
        transport = connection._writer and connection._writer.transport  # aiomysql
    else:
        return False  # a release whose names are not known
    if transport is None or transport.is_closing():
        return True
    socket = transport.get_extra_info("socket")
    return socket is not None and is_readable(socket.fileno())
