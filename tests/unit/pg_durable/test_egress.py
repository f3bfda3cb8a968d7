from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_durable.egress import Blocked, Egress, Policy, is_public, parse_url

PUBLIC = Policy.parse("public")
LISTED = Policy.parse(
    "allowlist", ["api.example.com", ".example.net", "https://only.tls.org", "alt.org:8443"]
)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "http://user:secret@example.com/",
        "http://example.com\\@evil.org/",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://exa mple.com/",
        "http://example.com/\r\nHost: x",
        "http:///path",
        "http://%65xample.com/",
        "http://[::1/",
        "//example.com",
        "",
        "http://127.1/",
        "http://0x7f.1/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://a..b/",
    ],
)
def test_a_url_without_one_clear_meaning_is_refused(url: str) -> None:
    """df-execution 12.29: authority tricks."""
    with pytest.raises(Blocked, match="Blocked: "):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://example.com", "example.com", 80, "/"),
        ("HTTPS://EXAMPLE.com.:443/a?b=c#d", "example.com", 443, "/a?b=c"),
        ("http://example.com:8080?x", "example.com", 8080, "/?x"),
        ("http://bücher.example/ü", "xn--bcher-kva.example", 80, "/%C3%BC"),
        ("http://example.com/@evil.org", "example.com", 80, "/@evil.org"),
        ("http://example.com#@evil.org", "example.com", 80, "/"),
        ("http://example.com?@evil.org", "example.com", 80, "/?@evil.org"),
        ("http://my_host.internal/", "my_host.internal", 80, "/"),
        ("http://\uff11\uff12\uff17.0.0.1/", "127.0.0.1", 80, "/"),
    ],
)
def test_a_url_is_taken_apart(url: str, host: str, port: int, path: str) -> None:
    target = parse_url(url)
    assert (target.host, target.port, target.path) == (host, port, path)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://api.example.com/x", True),
        ("https://API.EXAMPLE.COM./x", True),
        ("https://api.example.com.evil.org/", False),
        ("https://evil-api.example.com/", False),
        ("https://a.example.net/", True),
        ("https://example.net/", False),
        ("https://evilexample.net/", False),
        ("https://api.example.com:8443/", False),
        ("http://only.tls.org/", False),
        ("https://only.tls.org/", True),
        ("https://alt.org:8443/", True),
        ("https://alt.org/", False),
        ("https://8.8.8.8/", False),
    ],
)
def test_the_allow_list_means_what_it_says(url: str, allowed: bool) -> None:
    if allowed:
        LISTED.check_target(parse_url(url))
    else:
        with pytest.raises(Blocked):
            LISTED.check_target(parse_url(url))


def test_nothing_is_allowed_until_it_is_configured() -> None:
    with pytest.raises(Blocked, match="PG_DURABLE_HTTP_MODE"):
        Policy().check_target(parse_url("https://example.com/"))


SPECIAL = (
    "0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 169.254.169.254 172.31.255.255 192.0.0.1 192.0.2.1 "
    "192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 "
    "::ffff:127.0.0.1 ::ffff:8.8.8.8 ::7f00:1 64:ff9b::7f00:1 64:ff9b:1::1 100::1 2001::1 "
    "2001:db8::1 2002:7f00:1:: fc00::1 fd12::1 fe80::1 fec0::1 ff02::1"
)


@pytest.mark.parametrize("text", SPECIAL.split())
def test_special_addresses_are_never_connected_to(text: str) -> None:
    """df-execution 12.29: address ranges."""
    address = ipaddress.ip_address(text)
    assert not is_public(address)
    assert not PUBLIC.allows_address(address)
    assert not LISTED.allows_address(address)


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111"])
def test_ordinary_addresses_are(text: str) -> None:
    assert PUBLIC.allows_address(ipaddress.ip_address(text))


def test_a_private_network_can_be_listed() -> None:
    policy = Policy.parse("public", private=["10.0.0.0/8"])
    assert policy.allows_address(ipaddress.ip_address("10.1.2.3"))
    policy.check_target(parse_url("http://10.1.2.3/"))
    with pytest.raises(Blocked):
        policy.check_target(parse_url("http://8.8.8.8/"))


@pytest.mark.parametrize(
    "text", ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"]
)
def test_metadata_stays_out_of_reach_even_without_restrictions(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert not Policy.parse("unrestricted").allows_address(address)
    assert Policy.parse("unrestricted", allow_metadata=True).allows_address(address)


@given(st.ip_addresses(v=4))
def test_no_address_becomes_public_by_being_wrapped(address: ipaddress.IPv4Address) -> None:
    """df-execution 12.29: embedded forms."""
    number = int(address)
    for prefix in (0xFFFF << 32, 0, 0x0064FF9B << 96):
        assert not is_public(ipaddress.IPv6Address(prefix | number))
    assert not is_public(ipaddress.IPv6Address((0x2002 << 112) | (number << 80)))


@pytest.mark.parametrize(
    ("mode", "url", "words"),
    [
        ("off", "http://example.com/", "outbound HTTP requests are disabled."),
        ("allowlist", "http://other.example/", "'other.example' is not in the allowed endpoint list."),
        ("public", "http://93.184.216.34/", "requests to bare IP addresses are not permitted."),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_not_allowed(mode: str, url: str, words: str) -> None:
    policy = Policy.parse(mode, ["example.com"] if mode == "allowlist" else [], [], [])
    with pytest.raises(Blocked) as caught:
        policy.check_target(parse_url(url))
    assert str(caught.value).startswith(f"Blocked: {words}")
    assert "PG_DURABLE_HTTP_" in str(caught.value)


@pytest.mark.parametrize("mode", ["allowlist", "public"])
def test_a_private_network_is_open_on_listed_ports_only(mode: str) -> None:
    """df-execution 6.7: 80, 443 and what is listed; of a name in the list, its own."""
    policy = Policy.parse(mode, [".inside.org:5432"], ["10.0.0.0/8"], [8080])
    for port in (80, 443, 8080):
        policy.check_target(parse_url(f"http://10.1.2.3:{port}/"))
    with pytest.raises(Blocked, match=r"port 5432 is not allowed. .* PG_DURABLE_HTTP_PORTS"):
        policy.check_target(parse_url("http://10.1.2.3:5432/"))
    if mode == "allowlist":
        policy.check_target(parse_url("http://db.inside.org:5432/"))
        Policy.parse(mode, ["10.1.2.3:5432"], ["10.0.0.0/8"]).check_target(
            parse_url("http://10.1.2.3:5432/")
        )


def test_a_role_can_have_a_policy_of_its_own() -> None:
    egress = Egress(default=LISTED).with_roles(
        ["ann=api.ann.org", "ann=.anns.org", "bob=off", "eve=public"]
    )
    ann = egress.of("ann")
    ann.check_target(parse_url("https://api.ann.org/"))
    ann.check_target(parse_url("https://x.anns.org/"))
    for role, url in [
        ("ann", "https://api.example.com/"),
        ("bob", "https://api.example.com/"),
        ("other", "https://api.ann.org/"),
    ]:
        with pytest.raises(Blocked):
            egress.of(role).check_target(parse_url(url))
    egress.of("eve").check_target(parse_url("https://anywhere.org/"))
    egress.of("other").check_target(parse_url("https://api.example.com/"))


@pytest.mark.parametrize("word", ["ann", "=x.org", "ann=", "ann=http://x.org/path"])
def test_a_policy_of_a_role_that_can_not_be_read_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="http_"):
        Egress().with_roles([word])


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1%25eth0]/",
        "http://0/",
        "http://0.0.0.0/",
        "http://127.0.0.1./",
        "http://127.0.0.1.:80/",
        "http://0x7f000001/",
        "http://017700000001/",
        "http://127.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://①②⑦.⓪.⓪.①/",
        "http://127。0。0。1/",
        "http://\u200b127.0.0.1/",
        "http://8.8.8.8/",
        "http://example.com:80:80/",
        "http://example.com:/@127.0.0.1:22/../",
        "http://example.com@127.0.0.1/",
        "http://127.0.0.1#@example.com/",
        "http://127.0.0.1?@example.com/",
        "http://127.0.0.1\\@example.com/",
        "http:example.com",
        "http:/example.com",
        "http:///example.com",
        "http://example.com\t/",
        "http://exam\x00ple.com/",
        "http://example.com\u2028/",
        "javascript:alert(1)",
        "data:text/plain,x",
        "gopher://example.com/",
        "jar:http://example.com!/",
        "http://" + "a" * 64 + ".example.com/",
        "http://-.example.com:65536/",
    ],
)
def test_no_spelling_reaches_what_is_not_public(url: str) -> None:
    """Either it is refused, or it can only mean a name, whose addresses are looked at later."""
    try:
        target = parse_url(url)
        PUBLIC.check_target(target)
    except Blocked:
        return
    assert target.literal is None
    assert target.host == "example.com" or target.host.endswith(".example.com"), target
    assert not any(part.isdigit() for part in target.host.split(".")), target
