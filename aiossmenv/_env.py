"""`Env`: the mapping that `load_env()` returns, and its life."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping

from aiossmenv._concurrency import process
from aiossmenv._events import Callback
from aiossmenv._models import Change, Parameter, Snapshot, Status
from aiossmenv._publisher import Publisher
from aiossmenv._refresher import Refresher


class Env(Mapping[str, str]):
    """
    The environment of a service: key -> value, always of one complete read. It comes from `load_env()`.

    In a child process that was forked, and after the event loop that it was loaded on, one with a `ttl` is refused with
    `StaleEnv`, because nothing refreshes it there: load in each worker, and on each loop. One without works on any
    loop, one at a time, and in a child, `refresh()` too.
    """

    def __init__(self, publisher: Publisher, refresher: Refresher) -> None:
        """Take what `load_env()` made."""
        self._publisher = publisher
        self._refresher = refresher
        # What follows this takes its time from here.
        self._clock = refresher.clock

    def __getitem__(self, key: str) -> str:
        """Return the newest value of *key*; raises `KeyError`, and `StaleEnv` where the values are too old."""
        refresher = self._refresher
        if refresher.needs_check or refresher.pid != process.id:
            refresher.check()
        return self._publisher.snapshot._parameters[key].value

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys, sorted."""
        return iter(self._publisher.snapshot)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._publisher.snapshot)

    def __repr__(self) -> str:
        """Return one line that is fit for a log."""
        return repr(self._publisher)

    # Sentry sends the variables of frames, and unfolds mappings in them unless they have this.
    __sentry_repr__ = __repr__

    @property
    def snapshot(self) -> Snapshot:
        """The newest complete read."""
        self._refresher.refuse_if_abandoned()
        return self._publisher.snapshot

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The newest complete read as `Parameter`s, by key."""
        return self.snapshot.parameters

    @property
    def shadowed(self) -> frozenset[str]:
        """
        The keys that were in the environment before and were left alone (`override=False`).

        `env[key]` is the store's value all the same.
        """
        return self._publisher.shadowed

    @property
    def status(self) -> Status:
        """How current this is, at the moment of asking."""
        return self._refresher.status

    async def refresh(self, *keys: str, min_gap: float = 0.0) -> tuple[Change, ...]:
        """
        Read again now, and return what changed once it is published.

        Without *keys* everything is listed, undecrypted, and what changed is decrypted; so it is with a key that is not
        there, which a listing may find. With keys of up to ten parameters, these are read decrypted in one call; with
        more, by name.

        What it returns is newer than the call: callers share a refresh that has sent no request yet, and one that has
        is followed by one more for all later callers. The last good snapshot stays if it fails.

        Args:
            keys: What to read; default: everything.
            min_gap: Seconds that lie between the beginning of the last refresh and of this one at least; they are
                waited for. Default: 0.

        Raises:
            AiossmenvError: What the read raises; see `load_env()`.
            StaleEnv: Nothing refreshes this in this process, or on this event loop.
            RuntimeError: This is closed.
        """
        return await self._refresher.refresh(frozenset(keys), min_gap)

    async def ensure_fresh(self, max_age: float, deadline: float = 5.0) -> tuple[Change, ...]:
        """
        Refresh if the last complete read is too old, and return what changed.

        For runtimes that freeze between two calls, as AWS Lambda does, and where no task can run in the background:
        load without `ttl` when the process starts, and call this when a request begins. It costs nothing while the
        values are young. Without `ttl` and a store of your own that stays open (`async with ParameterStore() as
        store`), each read connects anew. It reads by name, or lists and decrypts all when `list_interval` and
        `revalidate_interval` seconds are over (`list_interval` has no default without `ttl`: what was added is not
        found then). All callers share one read.

        If the read fails, or takes longer than *deadline*, the last good values stay, `status` and a warning in the log
        say why, and `()` is returned. So it is, at once, until the next try, which backs off as refreshes in the
        background do.

        The age is the larger of the monotonic time elapsed, which may stand still while a process is frozen, and the
        wall-clock time.

        Args:
            max_age: Seconds; values of that age are refreshed.
            deadline: Seconds within which this returns. Default: 5.

        Raises:
            StaleEnv: The values are older than `max_stale`, or nothing refreshes this here.
            RuntimeError: This is closed.
            ValueError: *max_age* or *deadline* cannot be.
        """
        return await self._refresher.ensure_fresh(max_age, deadline)

    def changes(self) -> AsyncIterator[Change]:
        """
        Iterate over every change from now on, until this is closed.

        A slow reader gets one change for each key, from the oldest state that it has not seen to the newest.
        """
        self._refresher.refuse_elsewhere()
        return self._publisher.events.changes()

    def on_change(self, callback: Callback, *keys: str) -> Callable[[], None]:
        """
        Call *callback* with each `Change`, and return a function that ends that.

        A function is called on the loop, after the change is published and before `refresh()` returns; a coroutine
        function runs in a task, one call at a time. What they raise is logged by type and place, and goes no further.

        Args:
            callback: Takes a `Change`.
            keys: The keys whose changes it is called with; default: all.

        Raises:
            TypeError: A key is not a text.
        """
        self._refresher.refuse_elsewhere()
        return self._publisher.events.subscribe(callback, keys)

    def group(self, *keys: str) -> Callable[[], None]:
        """
        Let *keys* be read together, in one call, whenever one of them changed; return a function that ends that.

        A user and its password that are written one after the other are then seen as they were at one moment. One call
        holds up to ten.

        Args:
            keys: Two or more keys; one that is not there yet counts when it is.

        Raises:
            TypeError: A key is not a text.
        """
        if not all(isinstance(key, str) for key in keys):
            raise TypeError("several keys are several arguments: group('DB_USER', 'DB_PASSWORD')")
        self._refresher.refuse_elsewhere()
        group, groups = frozenset(keys), self._publisher.groups
        groups.append(group)

        def ungroup() -> None:
            if group in groups:
                groups.remove(group)

        return ungroup

    async def aclose(self) -> None:
        """
        End the refreshes, the readers of changes and the callbacks; the environment stays as it is. Idempotent.

        A callback that closes it, itself or through a task that it started, goes on; all others are cancelled.
        """
        await self._refresher.aclose(in_callback=self._publisher.events.in_callback())

    def __del__(self) -> None:
        """Warn if it was left open."""
        refresher = getattr(self, "_refresher", None)
        if refresher:
            refresher.warn_unclosed()


Env.__module__ = "aiossmenv"
