"""Names and origins as flags give them; what requests get is in test_server."""

import pytest

from warp_translate.errors import UserError
from warp_translate.serving.middleware import allowed_hosts as allowed
from warp_translate.serving.middleware import parse_origin as origin

LOOPBACK = ["localhost", "127.0.0.1", "[::1]"]


@pytest.mark.parametrize(
    ("address", "host", "more", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", [], LOOPBACK),
        ("127.0.0.1", "My.Name", [], [*LOOPBACK, "my.name"]),
        ("::1", "::1", ["a.example:8443"], [*LOOPBACK, "a.example"]),
        ("127.0.0.1", "127.0.0.1", ["*"], None),
        ("0.0.0.0", "0.0.0.0", [], None),
        ("fe80::1%eth0", "fe80::1%eth0", [], None),
        ("10.0.0.7", "10.0.0.7", ["a.example"], [*LOOPBACK, "10.0.0.7", "a.example"]),
    ],
)
def test_what_a_server_may_be_called(address, host, more, expected):
    assert allowed(address, host, more) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://app.example", "https://app.example"),
        ("HTTP://LocalHost:3000", "http://localhost:3000"),
        ("https://app.example:443", "https://app.example"),
        ("http://[::1]:80", "http://[::1]"),
        ("*", "*"),
    ],
)
def test_an_origin_is_written_as_browsers_write_it(text, expected):
    assert origin(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "app.example",
        "https://app.example/",
        "https://",
        "null",
        "ftp://a",
        "http://a:b",
        "http://[",
    ],
)
def test_what_is_no_origin_is_named(text):
    with pytest.raises(UserError, match=r"--allow_origin=.* must be an origin such as"):
        origin(text)


def test_what_is_no_name_is_named():
    with pytest.raises(UserError, match="--allow_host=: must be a name"):
        allowed("127.0.0.1", "127.0.0.1", [":"])
