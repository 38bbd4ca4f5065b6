"""
What may be written. Pure: all that Parameter Store would refuse for itself is refused before a request.

The functions that see a value return errors and do not raise them: a traceback would lead to the value.
"""

import copy
import re
from collections.abc import Mapping
from typing import get_args

from aiossmenv._errors import AiossmenvError, InvalidParameter, InvalidPath
from aiossmenv._models import ParameterType, Tier
from aiossmenv._naming import full_name
from aiossmenv._ssm.transport import PutParameter

# Characters of a value by tier. Without a tier, that of the parameter or of the account holds, which is not known here.
_LONGEST: Mapping[str | None, int] = {None: 8_192, "Standard": 4_096, "Advanced": 8_192, "Intelligent-Tiering": 8_192}
_SURROGATE = re.compile("[\ud800-\udfff]")


def retold(error: AiossmenvError, text: str = "") -> AiossmenvError:
    """Return *error* without its traceback, or a copy of it with another *text*."""
    if not text:
        return error.with_traceback(None)
    again = copy.copy(error)
    again.args, again.__cause__ = (text,), error.__cause__
    return again


def checked(
    name: object,
    value: object,
    *,
    type: ParameterType,  # noqa: A002 - PutParameter's word
    key_id: str | None,
    tier: Tier | None,
    overwrite: bool,
    description: str | None = None,
    tags: object = None,
    data_type: str | None = None,
) -> PutParameter | AiossmenvError:
    """Return the request for a write, or the error that Parameter Store would refuse it with; raises nothing."""
    if not isinstance(name, str) or not isinstance(value, str):
        return InvalidParameter("name and value are texts, and one of them is not", remedy="Pass each as a str.")
    try:
        full = full_name(name)
    except InvalidPath as error:
        return retold(error)
    fault = _fault(value, type, key_id, tier, tags)
    if fault:
        return InvalidParameter(fault[0], parameter=full, remedy=fault[1])
    return PutParameter(
        name=full,
        value=value,
        type=type,
        overwrite=overwrite,
        key_id=key_id,
        tier=tier,
        description=description,
        tags=tuple(tags.items()) if isinstance(tags, Mapping) else (),
        data_type=data_type,
    )


def checked_many(
    parameters: object,
    *,
    type: ParameterType,  # noqa: A002 - PutParameter's word
    key_id: str | None,
    tier: Tier | None,
    overwrite: bool,
) -> list[PutParameter] | AiossmenvError:
    """Return the requests for several writes, or the error of the first one that is not to be sent."""
    if not isinstance(parameters, Mapping):
        return InvalidParameter("the parameters are no mapping", remedy="Pass them as {'/FAKEBOOK/TEST/A': 'a'}.")
    requests: dict[str, PutParameter] = {}
    for name, value in parameters.items():
        request = checked(name, value, type=type, key_id=key_id, tier=tier, overwrite=overwrite)
        if isinstance(request, AiossmenvError):
            return request
        if request.name in requests:
            return InvalidPath("this name is given twice", parameter=request.name, remedy="Give it once.")
        requests[request.name] = request
    return list(requests.values())


def _fault(  # noqa: PLR0911 - a table, and it reads as one
    value: str, kind: str, key_id: str | None, tier: str | None, tags: object
) -> tuple[str, str] | None:
    """Return what is wrong with a value and what goes with it, and the remedy."""
    if kind not in get_args(ParameterType):
        return "there is no such type", f"Pass type= one of {', '.join(get_args(ParameterType))}."
    if tier is not None and tier not in get_args(Tier):
        return "there is no such tier", f"Pass tier= one of {', '.join(get_args(Tier))}."
    if key_id is not None and kind != "SecureString":
        return "only a SecureString has a key_id", "Pass type='SecureString', or no key_id."
    if not (tags is None or isinstance(tags, Mapping)):
        return "the tags are no mapping", "Pass them as {'team': 'payments'}."
    if not value:
        return "the value is empty", "Parameter Store holds no empty value: delete the parameter instead."
    if "\0" in value or _SURROGATE.search(value):
        return "the value holds a NUL or half a character", "Encode what is not text, for example in base64."
    longest = _LONGEST[tier]
    # KMS encrypts a standard SecureString itself, and its limit is one of bytes.
    in_bytes = tier == "Standard" and kind == "SecureString"
    size = len(value.encode()) if in_bytes else len(value)
    if size > longest:
        text = f"the value has {size:,} {'bytes' if in_bytes else 'characters'}, and {longest:,} are allowed"
        more = "Pass tier='Advanced', which AWS charges for, or split it." if tier == "Standard" else "Split it."
        return text, more
    return None
