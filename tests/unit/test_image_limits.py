"""Archives that are small and ask for much: each bound is met before the cost is, and nothing is kept."""

from __future__ import annotations

import io
import json
import os
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pynet.runtime.images import tarstream
from pynet.runtime.images.errors import InvalidArchive
from pynet.runtime.images.inflate import Inflated
from pynet.runtime.images.layout import digest_of
from pynet.runtime.images.limits import Limits
from pynet.runtime.images.store import ImageStore
from pynet.runtime.images.tarstream import TarReader


def header(name: bytes, kind: bytes, size: int = 0, link: bytes = b"") -> bytes:
    """A header and no more: tarfile would write extended ones of its own."""
    block = bytearray(512)
    block[: len(name[:100])] = name[:100]
    block[100:108], block[108:116], block[116:124] = b"0000755\0", b"%07o\0" % os.getuid(), b"%07o\0" % os.getgid()
    block[124:136], block[136:148], block[156:157] = b"%011o\0" % size, b"%011o\0" % 0, kind
    block[157 : 157 + len(link)] = link
    block[257:265] = b"ustar\00000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: bytes, data: bytes = b"", kind: bytes = b"0") -> bytes:
    return header(name, kind, len(data)) + data + b"\0" * (-len(data) % 512)


def pax(records: Iterable[tuple[bytes, bytes]], kind: bytes = b"x") -> bytes:
    lines: list[bytes] = []
    for key, value in records:
        length = len(key) + len(value) + 3
        length += len(str(length + len(str(length))))
        lines.append(b"%d %s=%s\n" % (length, key, value))
    return member(b"pax", b"".join(lines), kind)


END = b"\0" * 1024


def entries(data: bytes) -> int:
    return sum(1 for _ in TarReader(Inflated(io.BytesIO(data))))


def attributes(count: int, prefix: str = "a", size: int = 1) -> list[tuple[bytes, bytes]]:
    return [(f"SCHILY.xattr.user.{prefix}{i}".encode(), b"v" * size) for i in range(count)]


# -- headers -----------------------------------------------------------------------------------------------------

FILE = member(b"file")
HEADERS = {
    "records of one entry": pax(attributes(1001)) + FILE,
    "records of one entry in many headers": b"".join(pax(attributes(101, f"h{i}-")) for i in range(10)) + FILE,
    "records for all": b"".join(pax(attributes(101, f"h{i}-"), b"g") + FILE for i in range(10)),
    "bytes of one entry": b"".join(pax(attributes(1, f"h{i}-", 3 << 20)) for i in range(3)) + FILE,
    "bytes for all": b"".join(pax(attributes(1, f"h{i}-", 3 << 20), b"g") + FILE for i in range(3)),
    "one header": member(b"long", b"x" * (9 << 20), b"L") + FILE,
    "headers of one entry": pax([(b"comment", b"x")]) * 17 + FILE,
    "volume labels": header(b"label", b"V") * 17 + FILE,
    "a name": member(b"long", b"x" * 4096, b"L") + FILE,
    "a link's target": member(b"long", b"x" * 4096, b"K") + member(b"link", kind=b"2"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_extended_headers_are_bounded(case: str) -> None:
    with pytest.raises(
        InvalidArchive, match=r"extended headers of|more than 1000 records|records of more|a name is too long"
    ):
        entries(HEADERS[case] + END)


def test_what_tools_write_is_within_the_bounds() -> None:
    full = pax(attributes(990)) + pax([(b"path", b"p/" * 2000)]) + member(b"long", b"x" * 4095, b"L")
    assert entries((full + FILE) * 3 + END) == 3
    assert entries(b"".join(pax([(b"comment", b"x" * 9000)], b"g") + FILE for _ in range(1500)) + END) == 1500


def test_records_without_a_meaning_are_not_kept() -> None:
    many = [(f"VENDOR.k{i}".encode(), b"x" * 100) for i in range(5000)]
    reader = TarReader(Inflated(io.BytesIO((pax(many, b"g") + FILE) * 5 + END)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in reader) == 5
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


def test_only_files_have_data_whatever_the_size_of_the_others_says() -> None:
    kinds = (b"1", b"2", b"3", b"4", b"5", b"6")
    assert entries(b"".join(header(b"entry", kind, size=512, link=b"x") + FILE for kind in kinds) + END) == 12


# -- layers ------------------------------------------------------------------------------------------------------


def refused(store: ImageStore, archive: bytes, message: str) -> None:
    with pytest.raises(InvalidArchive, match=message):
        store.load(io.BytesIO(archive))
    assert (
        store.list()
        == []
        == os.listdir(store.path + "/tmp")
        == os.listdir(store.path + "/layers")
        == store.layout.blobs()
    )


def layer(*members: bytes) -> bytes:
    return b"".join(members) + END


def docker(*images: list[bytes], names: list[str] | None = None) -> bytes:
    """An archive of images, each a list of layers; equal layers are one member."""
    files: dict[str, bytes] = {}
    manifest: list[dict[str, Any]] = []
    for number, layers in enumerate(images):
        config = {"rootfs": {"type": "layers", "diff_ids": [digest_of(one) for one in layers]}, "number": number}
        files[f"{number}.json"] = json.dumps(config).encode()
        files |= {digest_of(one): one for one in layers}
        manifest.append({"Config": f"{number}.json", "RepoTags": names, "Layers": [digest_of(one) for one in layers]})
    files["manifest.json"] = json.dumps(manifest).encode()
    return b"".join(member(name.encode(), data) for name, data in files.items()) + END


def test_layers_are_bounded_in_their_sum(tmp_path: Path) -> None:
    """The same two layers in another order are other layers: they are unpacked again."""
    one, two = layer(member(b"one", b"1" * 40_000)), layer(member(b"two", b"2" * 40_000))
    archive = docker([one, two], [two, one])
    assert len(archive) < 110_000
    refused(ImageStore(str(tmp_path / "a"), limits=Limits(bytes=150_000)), archive, "larger than 150000 bytes")
    assert len(ImageStore(str(tmp_path / "b"), limits=Limits(bytes=170_000)).load(io.BytesIO(archive))) == 2


def test_entries_are_bounded_in_their_sum_with_the_directories_that_nobody_names(tmp_path: Path) -> None:
    one = layer(member(b"/".join([b"d"] * 40) + b"/f"))
    archive = docker([one], [layer(FILE), one])
    refused(ImageStore(str(tmp_path / "a"), limits=Limits(entries=82)), archive, "more than 82 entries")
    assert ImageStore(str(tmp_path / "b"), limits=Limits(entries=83)).load(io.BytesIO(archive))


def test_the_layers_of_an_image_are_bounded(tmp_path: Path) -> None:
    layers = [layer(member(b"f%d" % i)) for i in range(6)]
    store = ImageStore(str(tmp_path), limits=Limits(layers=5))
    refused(store, docker(layers), "max depth exceeded: the image has 6 layers, 5 are allowed")
    assert len(store.load(io.BytesIO(docker(layers[:5])))[0].layers) == 5
    assert Limits().layers == 125


def test_the_names_that_are_remembered_are_bounded(tmp_path: Path) -> None:
    one = layer(*(member(b"directory-%d/" % i, kind=b"5") for i in range(100)))
    refused(
        ImageStore(str(tmp_path / "a"), limits=Limits(names=1000)), docker([one]), "names have more than 1000 bytes"
    )
    members = b"".join(member(b"member-%d" % i) for i in range(100)) + END
    refused(ImageStore(str(tmp_path / "b"), limits=Limits(names=500)), members, "names have more than 500 bytes")


def test_members_images_and_names_of_images_are_bounded(tmp_path: Path) -> None:
    one = layer(FILE)
    store = ImageStore(str(tmp_path), limits=Limits(images=3, members=10))
    refused(store, b"".join(member(b"%d" % i) for i in range(11)) + END, "more than 10 members")
    refused(store, docker([one], [one], [one], [one]), "more than 3 images")
    refused(store, docker([one], names=["a:1", "a:2", "a:3", "a:4"]), "more than 3 images, or names")
    assert len(store.load(io.BytesIO(docker([one], [one], [one], names=["a:1"])))) == 3


# -- documents ---------------------------------------------------------------------------------------------------


def nested(width: int, depth: int) -> bytes:
    """Indexes in an index, *width* of them on each level: width ** depth ways to the one image, which is not ours."""
    kind = "application/vnd.oci.image.index.v1+json"
    files: dict[str, bytes] = {}
    inner = json.dumps({"manifests": [{"digest": digest_of(b""), "platform": {"os": "plan9"}}]}).encode()
    for _ in range(depth):
        files[f"blobs/sha256/{digest_of(inner)[7:]}"] = inner
        inner = json.dumps({"manifests": [{"mediaType": kind, "digest": digest_of(inner)}] * width}).encode()
    files["index.json"] = inner
    return b"".join(member(name.encode(), data) for name, data in files.items()) + END


def test_indexes_in_indexes_are_read_along_one_way(tmp_path: Path) -> None:
    began = time.process_time()
    refused(ImageStore(str(tmp_path)), nested(100, 4), "no image for linux")
    refused(ImageStore(str(tmp_path)), nested(2, 5), "nested too deep")
    assert time.process_time() - began < 2, "a hundred to the fourth power takes hours"


def test_what_is_parsed_is_bounded_however_often_it_is_named(tmp_path: Path) -> None:
    one = layer(FILE)
    config = json.dumps({"rootfs": {"diff_ids": [digest_of(one)]}, "author": "x" * 1000}).encode()
    manifest = json.dumps([{"Config": "c", "Layers": ["l"]}] * 20).encode()
    archive = member(b"c", config) + member(b"l", one) + member(b"manifest.json", manifest) + END
    refused(ImageStore(str(tmp_path / "a"), limits=Limits(documents=20_000)), archive, "more than 20000 bytes")
    assert len(ImageStore(str(tmp_path / "b"), limits=Limits(documents=30_000)).load(io.BytesIO(archive))) == 1


BAD_CONFIGS: dict[str, dict[str, Any]] = {
    "created": {"created": 5},
    "author": {"author": []},
    "architecture": {"architecture": {}},
    "config or Labels": {"config": "x"},
    "or Labels of": {"config": {"Labels": ["a"]}},
    "an object of strings": {"config": {"Labels": {"a": 1}}},
    "history": {"history": ["x"]},
    "a list of objects": {"history": {"a": {}}},
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_configuration_that_no_list_could_show_is_refused(tmp_path: Path, case: str) -> None:
    one = layer(FILE)
    config = json.dumps({"rootfs": {"diff_ids": [digest_of(one)]}, **BAD_CONFIGS[case]}).encode()
    archive = (
        member(b"c", config) + member(b"l", one) + member(b"manifest.json", b'[{"Config":"c","Layers":["l"]}]') + END
    )
    refused(ImageStore(str(tmp_path)), archive, case)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    store = ImageStore(str(tmp_path))
    manifest = json.dumps([{"Config": "\udcff\ud800", "Layers": []}]).encode()
    link = header(b"\xff/l", b"2", link=b"../\xfe")
    refused(store, link + member(b"manifest.json", manifest) + END, r"\\udcff\\ud800 is missing")


def test_the_module_says_what_it_takes() -> None:
    assert (tarstream.META_MAX, tarstream.HEADERS_MAX, tarstream.RECORDS_MAX, tarstream.PATH_MAX) == (
        8 << 20,
        16,
        1000,
        4096,
    )
