"""Names of images, against the cases of distribution/reference's own tests."""

from __future__ import annotations

import pytest

from pynet.runtime.images.errors import InvalidReference
from pynet.runtime.images.references import Reference, id_prefix

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("me/app:v1_2.x-3", "docker.io/me/app:v1_2.x-3", "me/app:v1_2.x-3"),
        ("library/me/app", "docker.io/library/me/app:latest", "library/me/app:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
        ("Example/app", "Example/app:latest", "Example/app:latest"),
        ("[fc00::1]:5000/app:t", "[fc00::1]:5000/app:t", "[fc00::1]:5000/app:t"),
        (f"a.b/c@sha256:{HEX}", f"a.b/c@sha256:{HEX}", f"a.b/c@sha256:{HEX}"),
        (f"c:t@sha256:{HEX}", f"docker.io/library/c:t@sha256:{HEX}", f"c:t@sha256:{HEX}"),
        ("a__b/c--d.e", "docker.io/a__b/c--d.e:latest", "a__b/c--d.e:latest"),
    ],
)
def test_a_name_has_one_canonical_and_one_familiar_form(text: str, canonical: str, familiar: str) -> None:
    reference = Reference.parse(text).tagged()
    assert (str(reference), reference.familiar) == (canonical, familiar)
    assert Reference.parse(canonical) == reference


@pytest.mark.parametrize(
    "text",
    ["", ":tag", "a:", "a:b:c", "a@", "a@sha256:abc", "-a", "a-", "a..b", "a/", "/a", "a//b", "a b", "a:ta g", "a\n",
     "a:" + "x" * 129, "a___b", "héllo", "a.b:port/c", "https://x.y/z", "..", "../etc/passwd", "a:-x", "a\0"],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference, match=r"^invalid reference format"):
        Reference.parse(text)


def test_messages_that_say_more() -> None:
    with pytest.raises(InvalidReference, match=r"repository name \(library/Busybox\) must be lowercase"):
        Reference.parse("Busybox")
    with pytest.raises(InvalidReference, match="cannot specify 64-byte hexadecimal strings"):
        Reference.parse(HEX)
    with pytest.raises(InvalidReference, match="must not be more than 255 characters"):
        Reference.parse("a/" + "b" * 250)


def test_ids() -> None:
    assert [id_prefix(t) for t in (HEX, "sha256:ab", "ab12", "abx", "AB", "", f"{HEX}0")] == [
        HEX, "ab", "ab12", "", "", "", "",
    ]  # fmt: skip
