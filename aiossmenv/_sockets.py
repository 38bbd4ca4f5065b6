"""Whether the connection of a driver has ended, without a question to the server."""

import select
from collections.abc import Callable
from functools import partial
from typing import Any


def is_readable(descriptor: int) -> bool:
    """Return whether there is something to read from a socket, or its end; waits for nothing."""
    return bool(_poller(descriptor)())


def ending_of(connection: Any) -> Callable[[], object]:
    """
    Return a function that is true when an idle connection of aiomysql, asyncmy, asyncpg or psycopg has ended.

    An idle server says nothing, so anything to read is the end, or the error that it sends before the end. The socket
    itself is asked: the event loop may not have run since.
    """
    pgconn = getattr(connection, "pgconn", None)
    if pgconn is not None:
        poll = _poller(pgconn.socket)
        return lambda: connection.closed or poll()
    if hasattr(connection, "_transport"):
        transport = connection._transport  # asyncpg, asyncmy
    elif hasattr(connection, "_writer"):
        transport = connection._writer and connection._writer.transport  # aiomysql
    else:
        return lambda: False  # a release whose names are not known
    if transport is None:
        return lambda: True
    socket, is_closing = transport.get_extra_info("socket"), transport.is_closing
    if socket is None:
        return is_closing  # type: ignore[no-any-return]
    poll = _poller(socket.fileno())
    return lambda: is_closing() or poll()


def _poller(descriptor: int) -> Callable[[], object]:
    """Return a function that is true when a socket is readable."""
    if descriptor < 0:
        return lambda: True
    if not hasattr(select, "poll"):  # pragma: no cover - Windows, where select() has no limit on descriptors
        return lambda: select.select([descriptor], [], [], 0)[0]
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return partial(poll.poll, 0)
