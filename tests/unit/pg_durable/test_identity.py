"""Which mechanism serves which role."""

from __future__ import annotations

import pytest

from pg_durable.identity import Actor, Identity
from pg_durable.settings import SettingError, Settings


def test_login_is_the_default_and_the_workers_own_role_always_logs_in() -> None:
    assert Identity.parse((), "w").actor("ann") == Actor("ann")
    opted_in = Identity.parse(("set_role",), "w")
    assert opted_in.actor("ann") == Actor("w", "ann")
    assert opted_in.actor("w") == Actor("w")


def test_a_single_role_can_have_its_own() -> None:
    identity = Identity.parse(("a=b=set_role",), "w")
    assert identity.sets_roles
    assert identity.actor("a=b") == Actor("w", "a=b")
    assert identity.actor("ann") == Actor("ann")


@pytest.mark.parametrize("text", ["sudo", "ann=sudo", "login set_role"])
def test_a_word_that_can_not_be_meant_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(SettingError, match="identity: "):
        Settings.load({}, {"PG_DURABLE_IDENTITY": text})


def test_a_flag_is_on_or_off() -> None:
    assert Settings.load({}, {"PG_DURABLE_ALLOW_UNSAFE_SET_ROLE": "on"}).allow_unsafe_set_role
    assert not Settings.load({}, {"PG_DURABLE_ALLOW_UNSAFE_SET_ROLE": "0"}).allow_unsafe_set_role
    with pytest.raises(SettingError, match="must be on or off, not 'perhaps'"):
        Settings.load({}, {"PG_DURABLE_ALLOW_UNSAFE_SET_ROLE": "perhaps"})
