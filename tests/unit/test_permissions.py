"""The cache of denied operations, and how long a denial counts."""

from aiossmenv import AccessDenied, GetParameter, GetParameters
from aiossmenv._ssm.permissions import PermissionCache, is_denial

DENIED = AccessDenied("no", action="ssm:GetParameters")


def test_denial_expires() -> None:
    """A denied operation is tried again after its time, and one success clears the denial."""
    cache = PermissionCache()
    cache.deny(GetParameters, DENIED, until=10.0)

    cache.expire(9.9)
    assert DENIED is cache.denial(GetParameters)
    cache.expire(10.0)
    assert (None, {GetParameters}) == (cache.denial(GetParameters), cache.doubted)
    cache.granted(GetParameters)
    assert set() == cache.doubted


def test_first_denial_sets_the_time() -> None:
    """Another denial of a denied operation does not extend its time."""
    cache = PermissionCache()
    cache.deny(GetParameters, DENIED, until=10.0)
    cache.deny(GetParameters, AccessDenied("again", action="ssm:GetParameters"), until=99.0)

    cache.expire(10.0)
    assert cache.denial(GetParameters) is None


def test_suspend_counts_as_elapsed_time() -> None:
    """The clock stops while the process is suspended, so the suspended time is subtracted."""
    cache = PermissionCache()
    cache.deny(GetParameters, DENIED, until=100.0)

    cache.account_for_suspend(95.0)
    cache.expire(5.0)
    assert cache.denial(GetParameters) is None


def test_reports_are_made_once() -> None:
    """
    A denial that another operation replaced is reported once, and so is its end; other denials are never reported.
    """
    cache = PermissionCache()
    cache.deny(GetParameters, DENIED, until=10.0)
    cache.deny(GetParameter, AccessDenied("no", action="ssm:GetParameter"), until=10.0)
    for _ in range(2):
        cache.confirm(GetParameters)
    assert [(False, DENIED)] == cache.report()
    cache.expire(10.0)
    for operation in (GetParameters, GetParameter):
        cache.granted(operation)

    assert [(True, DENIED)] == cache.report()
    assert [] == cache.report()


def test_only_denials_by_parameter_store_are_cached() -> None:
    """A denial by STS, a proxy or KMS is not a denial of a Parameter Store action."""
    assert is_denial(DENIED)
    assert not is_denial(AccessDenied("no"))
    assert not is_denial(AccessDenied("no", action="kms:Decrypt"))
