"""Who is let in: this machine's own pages and programs, and what was allowed by name."""

import pytest

from dsrun.errors import UsageError
from dsrun.serving.access import Access, access_of, is_loopback


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_names_and_addresses_are_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "localhost.example.org", "127.0.0.1.nip.io", "10.0.0.1", "::", "notlocalhost"]
)
def test_names_that_look_like_loopback_are_not(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("header", "is_let_in"),
    [
        ("localhost:8765", True),
        ("127.0.0.1", True),
        ("[::1]:8765", True),
        ("evil.example:8765", False),  # DNS rebinding: the name is the page's, the address is ours
        ("192.168.0.7:8765", False),
        ("", False),
        (None, False),
        ("localhost@evil.example", False),
        ("evil.example/localhost", False),
        ("[::1", False),
        ("localhost:port", True),  # the name decides
    ],
)
def test_a_host_is_answered_only_by_its_own_names(header, is_let_in):
    assert (Access().problem_with_host(header) is None) == is_let_in


def test_an_exposed_service_answers_to_addresses_in_numbers_and_to_names_that_were_allowed():
    access = access_of("0.0.0.0", hosts=["Speech.Example.org"], origins=[])
    for header in ("192.168.0.7:8765", "[fe80::1]:8765", "speech.example.org", "localhost"):
        assert access.problem_with_host(header) is None, header
    assert "--allow-host" in access.problem_with_host("evil.example")


@pytest.mark.parametrize(
    ("origin", "is_let_in"),
    [
        (None, True),  # no page
        ("http://localhost:8765", True),
        ("https://127.0.0.1", True),
        ("http://speech.example.org:8765", True),  # the page was served under the name that it now asks
        ("http://speech.example.org", False),  # another port is another page
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://localhost@evil.example", False),
        ("null", False),
        ("file://", False),
        ("chrome-extension://localhost", False),
        ("", False),
        ("https://allowed.example", True),
        ("https://ALLOWED.example", True),
    ],
)
def test_pages_of_other_origins_are_refused(origin, is_let_in):
    access = Access(origins=frozenset({"https://allowed.example"}))
    assert (access.problem_with_origin(origin, "speech.example.org:8765") is None) == is_let_in


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/page", "*", "https://", "ftp://example.org"])
def test_an_origin_that_no_browser_sends_cannot_be_allowed(origin):
    with pytest.raises(UsageError, match="--allow-origin"):
        access_of("127.0.0.1", hosts=[], origins=[origin])


@pytest.mark.parametrize("host", ["http://example.org", "example.org:80", "", "a/b"])
def test_a_host_name_with_scheme_or_port_cannot_be_allowed(host):
    with pytest.raises(UsageError, match="--allow-host"):
        access_of("127.0.0.1", hosts=[host], origins=[])
