"""What the role may not do, and for how long that is believed."""

from aiossmenv import AccessDenied, GetParameter, GetParameters
from aiossmenv._ssm.permissions import PermissionCache, is_denial

DENIED = AccessDenied("no", action="ssm:GetParameters")


def test_a_denial_ends_with_its_time() -> None:
    """Until its time is over an operation is denied; then it is doubted, and one success makes it ordinary."""
    cache = PermissionCache()
    cache.deny(GetParameters, DENIED, until=10.0)

    cache.expire(9.9)
    assert DENIED is cache.denial(GetParameters)
    cache.expire(10.0)
    assert (None, {GetParameters}) == (cache.denial(GetParameters), cache.doubted)
    cache.granted(GetParameters)
    assert set() == cache.doubted


def test_the_first_denial_counts() -> None:
    """A second denial of what is denied prolongs nothing."""
    cache = PermissionCache()
    cache.deny(GetParameters, DENIED, until=10.0)
    cache.deny(GetParameters, AccessDenied("again", action="ssm:GetParameters"), until=99.0)

    cache.expire(10.0)
    assert cache.denial(GetParameters) is None


def test_a_suspended_process_ages_denials() -> None:
    """The clock stands still while the process is suspended, so that time is taken off."""
    cache = PermissionCache()
    cache.deny(GetParameters, DENIED, until=100.0)

    cache.account_for_suspend(95.0)
    cache.expire(5.0)
    assert cache.denial(GetParameters) is None


def test_reports_are_made_once() -> None:
    """What was denied and made up for is reported once, and once more when the right is back; what was not, never."""
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


def test_only_parameter_stores_own_denials_can_be_replaced() -> None:
    """A denial of STS, of a proxy or of KMS is none of an action of Parameter Store."""
    assert is_denial(DENIED)
    assert not is_denial(AccessDenied("no"))
    assert not is_denial(AccessDenied("no", action="kms:Decrypt"))
