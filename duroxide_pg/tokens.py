"""What lease tokens look like: a secret, and where to find the row by its primary key.

A turn's is `nonce/instance`, an activity's `nonce/id/instance`; the nonce has no slash in it.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable

from duroxide.ids import ActivityToken, InstanceId, TurnToken

NAME_LENGTH = 12  # of a process, in front of what it makes


def process_name() -> str:
    """A name that no other process has: 72 random bits in 12 characters without a slash."""
    return secrets.token_urlsafe(9)


def nonces(prefix: str) -> Callable[[], str]:
    """Secrets of one process; a lease's is unique because the prefix and the number are."""
    return map("{}{:x}".format, itertools.repeat(prefix), itertools.count(1)).__next__


def turn_token(nonce: str, instance_id: InstanceId) -> TurnToken:
    return TurnToken(f"{nonce}/{instance_id}")


def split_turn_token(token: TurnToken) -> tuple[str, InstanceId]:
    nonce, _, instance_id = token.partition("/")
    return nonce, instance_id


def activity_token(nonce: str, number: int, instance_id: InstanceId) -> ActivityToken:
    return ActivityToken(f"{nonce}/{number}/{instance_id}")


def split_activity_token(token: ActivityToken) -> tuple[str, int, InstanceId]:
    """Nonce, id and instance; id 0, which no row has, if the text is not a token of ours."""
    nonce, _, rest = token.partition("/")
    number, _, instance_id = rest.partition("/")
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        return nonce, 0, instance_id
    return nonce, int(number), instance_id
