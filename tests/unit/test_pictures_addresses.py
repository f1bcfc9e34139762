"""What is an address of a picture, which addresses are public, and what begins like a picture."""

import io
import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from mlim.pictures.addresses import is_public_address, web_address
from mlim.pictures.sniff import picture_format


def test_a_relative_redirect_keeps_its_spelling():
    base = web_address("http://Shop.test/a/b/c.jpg?x=%2f")
    found = [str(web_address(target, base)) for target in ("../d%2Fe?s=%2B", "?s=%2B", "//Other.test/x%2Fy", "/x/./y")]
    assert found == [
        "http://shop.test/a/d%2Fe?s=%2B",
        "http://shop.test/a/b/c.jpg?s=%2B",
        "http://other.test/x%2Fy",
        "http://shop.test/x/./y",
    ]


def test_a_host_beyond_ascii_is_looked_up_by_its_registered_name():
    assert str(web_address("http://Bücher.test/größe")) == "http://xn--bcher-kva.test/gr%C3%B6%C3%9Fe"


SPECIAL_NETWORKS = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
]


@given(st.sampled_from(SPECIAL_NETWORKS).flatmap(lambda network: st.ip_addresses(network=network)))
@example(ipaddress.IPv4Address("192.0.0.8"))
@example(ipaddress.IPv4Address("192.88.99.1"))
def test_special_ipv4_addresses_are_not_public_in_any_dress(address):
    number = int(address)
    dressed = [
        ipaddress.IPv6Address((0xFFFF << 32) | number),  # mapped
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80) | 1),  # 6to4
        ipaddress.IPv6Address((0x64FF9B << 96) | number),  # NAT64
        ipaddress.IPv6Address(number),  # compatible
    ]
    assert not any(is_public_address(str(dress)) for dress in (address, *dressed))


SPECIAL_IPV6 = ["::/128", "::1/128", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/32", "2001:2::/48"]
SPECIAL_IPV6 += ["2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"]


@given(st.sampled_from(SPECIAL_IPV6).flatmap(lambda network: st.ip_addresses(network=network)))
@example(ipaddress.IPv6Address("fe80::1%eth0"))
@example(ipaddress.IPv6Address("3fff::1"))
def test_special_ipv6_addresses_are_not_public(address):
    """Point 24: every range that IANA's registry calls not globally reachable is refused."""
    assert not is_public_address(str(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_open_internet_are_public(address):
    assert is_public_address(address)


def test_the_fragment_of_an_address_is_not_sent():
    assert str(web_address(" https://shop.test/a.jpg#top ")) == "https://shop.test/a.jpg"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000"])
def test_pictures_are_known_by_their_first_bytes(form):
    target = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(target, form)
    assert picture_format(target.getvalue()[:16]) == form


@given(st.binary(max_size=16))
@example(b"<!DOCTYPE html><h")
@example(b"RIFF\0\0\0\0WAVEfmt ")
@example(b"\0\0\0\x18ftypmp42")
@example(b"%PDF-1.7")
def test_other_bytes_are_no_picture(start):
    known = (b"\xff\xd8\xff", b"\xff\x4f", b"\xff\x0a", b"\x89PNG", b"GIF8", b"BM", b"II*", b"MM\0*", b"RIFF")
    found = picture_format(start) is not None
    assert found <= (start.startswith(known) or start[4:8] in (b"ftyp", b"jP  ", b"JXL "))
