"""What runs of `rotate_under_load()` came to, as a table."""

import statistics

from rotations import Outcome, Scenario


def failures(scenario: Scenario, outcome: Outcome) -> int:
    """Count the failures of a run; a transaction that is cancelled may already be committed."""
    lost = max(outcome.committed - outcome.rows, outcome.rows - outcome.committed - outcome.cancelled, 0)
    idle = scenario.rotate != "bad_put" and outcome.swaps < 3
    return sum(outcome.failed.values()) + lost + outcome.left + idle


def quantiles(seconds: list[float]) -> tuple[float, float] | None:
    """Return median and 99th percentile in milliseconds, or None with fewer than two values."""
    if len(seconds) < 2:
        return None
    cuts = statistics.quantiles(seconds, n=100)
    return 1000 * cuts[49], 1000 * cuts[98]


def row(scenario: Scenario, outcome: Outcome) -> str:
    """Return a line of the table."""
    steady, near = quantiles(outcome.steady), quantiles(outcome.near)
    cells = (
        scenario.name,
        outcome.rotations,
        outcome.swaps,
        f"{outcome.committed:,}",
        f"**{failures(scenario, outcome)}**",
        f"{steady[0]:.1f} / {steady[1]:.1f}" if steady else "",
        f"{near[0]:.1f} / {near[1]:.1f}" if near else "",
        f"{near[1] / steady[1]:.2f}" if steady and near else "",
        outcome.most,
        outcome.refused,
        outcome.stale_logins,
    )
    return f"| {' | '.join(map(str, cells))} |"


def total(outcomes: dict[Scenario, Outcome]) -> str:
    """Return the last line of the table."""
    rotations, swaps, committed, refused, old = (
        sum(getattr(outcome, name) for outcome in outcomes.values())
        for name in ("rotations", "swaps", "committed", "refused", "stale_logins")
    )
    failed = sum(failures(scenario, outcome) for scenario, outcome in outcomes.items())
    return f"| all | {rotations:,} | {swaps:,} | {committed:,} | **{failed}** | | | | | {refused:,} | {old:,} |"


_COLUMNS = (
    *(
        "scenario",
        "rotations",
        "swaps",
        "transactions",
        "failed",
        "steady p50 / p99, ms",
        "near a swap",
        "ratio of p99",
    ),
    *("connections", "rejected logins", "stale logins"),
)
HEAD = f"| {' | '.join(_COLUMNS)} |\n| --- |{' ---: |' * (len(_COLUMNS) - 1)}"
