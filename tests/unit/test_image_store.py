"""The store: names, look-up, removal, archives in and out, kills and races."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pynet.netlib.errors import InternalError, InvalidArgument, NotSupported, StateTooNew
from pynet.runtime.images import bootstrap as image_bootstrap
from pynet.runtime.images.changes import apply_changes
from pynet.runtime.images.errors import (
    ImageConflict,
    InvalidArchive,
    InvalidReference,
    NoSuchImage,
    StoreFull,
    disk_errors,
)
from pynet.runtime.images.layers import chain_ids
from pynet.runtime.images.layout import digest_of
from pynet.runtime.images.store import ImageStore


def tar_of(files: dict[str, bytes | str]) -> bytes:
    """An archive of files; a value of type str is the target of a symbolic link."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.uid, info.gid = os.getuid(), os.getgid()
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return output.getvalue()


def rootfs(text: bytes = b"hello") -> io.BytesIO:
    return io.BytesIO(tar_of({"etc/motd": text}))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path))


def leftovers(store: ImageStore) -> list[str]:
    return os.listdir(os.path.join(store.path, "tmp"))


# -- import, look-up ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["tar", "gz", "xz"])
def test_an_imported_root_file_system_is_an_image(store: ImageStore, pack: Any) -> None:
    data = rootfs().getvalue()
    image = store.import_rootfs(
        io.BytesIO(pack(data)), "me/app:1", changes=['CMD ["a", "b"]', "ENV A=1 B='2 3'"], message="why"
    )
    assert image.repo_tags == ("me/app:1",) and image.repo_digests == (f"me/app@{image.manifest}",)
    assert image.defaults == {"Cmd": ["a", "b"], "Env": ["A=1", "B=2 3"]}
    assert image.config["rootfs"]["diff_ids"] == [digest_of(data)] == list(image.layers)
    assert image.config["history"][0]["comment"] == "why" and image.size == 5 and image.created_unix > 1_600_000_000
    root = store.rootfs(image, os.path.join(os.path.dirname(store.path), "containers", "c"))
    assert Path(root["lower"][0], "etc/motd").read_bytes() == b"hello"
    assert os.listdir(root["upper"]) == os.listdir(root["work"]) == leftovers(store) == []
    for digest in store.layout.blobs():
        assert digest_of(Path(store.layout.blob(digest)).read_bytes()) == digest
    assert ImageStore(os.path.dirname(store.path)).get(image.id) == image


def test_an_image_is_found_by_every_form_of_its_name(store: ImageStore) -> None:
    image = store.import_rootfs(rootfs(), "busybox")
    digits = image.id.removeprefix("sha256:")
    for reference in (
        "busybox", "busybox:latest", "docker.io/library/busybox", image.id, digits, digits[:12], f"sha256:{digits[:7]}",
        f"busybox@{image.manifest}",
    ):  # fmt: skip
        assert store.get(reference) == image
    for reference, shown in (
        ("busy", "busy:latest"), ("busybox:2", "busybox:2"), ("0" * 64, "0" * 64), ("sha256:" + "0" * 12,) * 2,
        (f"other@{image.manifest}",) * 2,
    ):  # fmt: skip
        with pytest.raises(NoSuchImage) as caught:
            store.get(reference)
        assert str(caught.value) == f"No such image: {shown}" and caught.value.status == 404
    with pytest.raises(InvalidReference, match=r"^invalid reference format$"):
        store.get("a b")


def test_an_id_prefix_of_two_images_is_neither(store: ImageStore) -> None:
    images = [store.import_rootfs(rootfs(str(i).encode()), f"i{i}") for i in range(17)]  # 17 of 16 first digits
    firsts = [image.id.removeprefix("sha256:")[0] for image in images]
    twice = next(digit for digit in firsts if firsts.count(digit) > 1)
    with pytest.raises(NoSuchImage):
        store.get(f"sha256:{twice}")


def test_a_name_moves_and_its_old_image_stays_without_one(store: ImageStore) -> None:
    old = store.import_rootfs(rootfs(b"1"), "app")
    new = store.import_rootfs(rootfs(b"2"), "app")
    assert store.get("app") == new and store.get(old.id).repo_tags == ()
    assert [image.id for image in store.list()] == [new.id, old.id]
    store.tag(old.id, "app")
    assert store.get("app").id == old.id and store.get(new.id).repo_tags == ()
    assert store.tag("app", "also:1").repo_tags == ("app:latest", "also:1")
    assert store.tag("app", "also:1").repo_tags == ("app:latest", "also:1")
    assert [len(store.list()), len(store.layout.read())] == [2, 3]


def test_bad_names_are_refused_before_anything_is_read(store: ImageStore) -> None:
    class Untouched:
        def read(self, size: int, /) -> bytes:
            raise AssertionError("the archive was read")

    for name in ("Bad", "a b", "a@sha256:" + "0" * 64, "sha256:abc", "../x"):
        with pytest.raises(InvalidArgument):
            store.import_rootfs(Untouched(), name)
    with pytest.raises(InvalidArgument, match="FROM is not a valid change command"):
        store.import_rootfs(Untouched(), "a", changes=["FROM x"])


# -- removal -----------------------------------------------------------------------------------------------------


def test_removing_the_last_name_removes_everything(store: ImageStore) -> None:
    image = store.import_rootfs(rootfs(), "app")
    store.tag("app", "two")
    assert store.remove("app") == [{"Untagged": "app:latest"}]
    assert store.remove("two") == [{"Untagged": "two:latest"}, {"Deleted": image.id}, {"Deleted": image.layers[0]}]
    assert store.list() == [] and store.layout.blobs() == [] and os.listdir(store.path + "/layers") == []
    with pytest.raises(NoSuchImage):
        store.remove("two")


def test_a_layer_goes_with_the_last_image_that_has_it(store: ImageStore) -> None:
    one = store.import_rootfs(rootfs(), "one", message="1")
    two = store.import_rootfs(rootfs(), "two", message="2")
    assert one.id != two.id and one.layers == two.layers
    assert store.remove("one") == [{"Untagged": "one:latest"}, {"Deleted": one.id}]
    assert store.remove(two.id)[-1] == {"Deleted": one.layers[0]}


def test_conflicts_have_dockers_words(store: ImageStore) -> None:
    image = store.import_rootfs(rootfs(), "app")
    short = image.id[7:19]
    running, stopped = [("c" * 64, image.id, True)], [("d" * 64, image.id, False)]
    for users in (running, stopped):
        with pytest.raises(ImageConflict) as caught:
            store.remove("app", in_use=users)
        assert str(caught.value) == (
            f'conflict: unable to remove repository reference "app" (must force) - container {users[0][0][:12]} '
            f"is using its referenced image {short}"
        )
    with pytest.raises(ImageConflict) as caught:
        store.remove(image.id, force=True, in_use=running)
    assert str(caught.value) == (
        f"conflict: unable to delete {short} (cannot be forced) - image is being used by running container cccccccccccc"
    )
    with pytest.raises(ImageConflict) as caught:
        store.remove(short, in_use=stopped)
    assert str(caught.value) == (
        f"conflict: unable to delete {short} (must be forced) - image is being used by stopped container dddddddddddd"
    )
    store.tag("app", "two")
    with pytest.raises(ImageConflict) as caught:
        store.remove(image.id)
    assert str(caught.value) == (
        f"conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
    )
    assert store.get("app").repo_tags == ("app:latest", "two:latest")
    assert store.remove("two", in_use=running) == [{"Untagged": "two:latest"}]
    assert store.remove("app", force=True, in_use=running) == [{"Untagged": "app:latest"}]
    assert store.get(image.id).repo_tags == ()
    assert store.remove(image.id, force=True, in_use=stopped)[0] == {"Deleted": image.id}


def test_layers_stay_for_as_long_as_a_container_stands_on_them(store: ImageStore, tmp_path: Path) -> None:
    image = store.import_rootfs(rootfs(), "app")
    root = store.rootfs(image, str(tmp_path / "containers/c1"))
    Path(root["upper"], "kept").write_text("x")
    assert store.remove("app", force=True, in_use=[("c1", image.id, False)]) == [
        {"Untagged": "app:latest"}, {"Deleted": image.id},
    ]  # fmt: skip
    ImageStore(str(tmp_path))
    assert os.path.isdir(root["lower"][0])
    assert store.rootfs(image, str(tmp_path / "containers/c1")) == root and os.listdir(root["upper"]) == ["kept"]
    (tmp_path / "containers/c1/lower").unlink()
    ImageStore(str(tmp_path))
    assert not os.path.isdir(root["lower"][0])
    with pytest.raises(NoSuchImage):
        store.rootfs(image, str(tmp_path / "containers/c2"))


# -- archives ----------------------------------------------------------------------------------------------------


def config_of(*layers: bytes, **more: Any) -> bytes:
    return json.dumps(
        {"os": "linux", "architecture": "amd64", "config": {"Cmd": ["x"]},
         "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}, **more}
    ).encode()  # fmt: skip


BASE, TOP = tar_of({"a": b"1", "d/b": b"2"}), tar_of({"d/.wh.b": b"", "c": b"3"})


def docker_archive(**changed: Any) -> dict[str, bytes | str]:
    """As Docker before 25 wrote it: a folder a layer, shared ones as links."""
    files: dict[str, bytes | str] = {
        "one.json": config_of(BASE, TOP),
        "two.json": config_of(BASE),
        "l1/layer.tar": BASE,
        "l2/layer.tar": gzip.compress(TOP),
        "l3/layer.tar": "../l1/layer.tar",
        "manifest.json": json.dumps(
            [
                {"Config": "one.json", "RepoTags": ["app:1", "app:2"], "Layers": ["l1/layer.tar", "l2/layer.tar"]},
                {"Config": "two.json", "RepoTags": None, "Layers": ["l3/layer.tar"]},
            ]
        ).encode(),
    }
    return {**files, **changed}


def test_load_of_a_docker_archive(store: ImageStore) -> None:
    one, two = store.load(io.BytesIO(gzip.compress(tar_of(docker_archive()))))
    assert one.repo_tags == ("app:1", "app:2") and two.repo_tags == ()
    assert list(one.layers) == chain_ids([digest_of(BASE), digest_of(TOP)]) and two.layers == one.layers[:1]
    lower = store.rootfs(one, os.path.dirname(store.path) + "/containers/c")["lower"]
    assert sorted(os.listdir(lower[0])) == ["c", "d"] and sorted(os.listdir(lower[1])) == ["a", "d"]
    assert os.lstat(lower[0] + "/d/b").st_rdev == 0
    assert leftovers(store) == []
    assert store.load(io.BytesIO(tar_of(docker_archive()))) == [one, two], "loading twice changes nothing"


def oci_archive(
    *, blob: bytes | None = None, platform: str = "", pack: Callable[[bytes], bytes] = gzip.compress
) -> dict[str, bytes | str]:
    packed = pack(TOP)
    config = config_of(BASE, TOP)
    layers = [{"digest": digest_of(BASE), "size": 1}, {"digest": digest_of(packed), "size": 1}]
    manifest = json.dumps({"schemaVersion": 2, "config": {"digest": digest_of(config)}, "layers": layers}).encode()
    inner = json.dumps(
        {"manifests": [
            {"digest": digest_of(b"windows"), "platform": {"os": "windows", "architecture": "amd64"}},
            {"digest": digest_of(manifest), "platform": {"os": platform or "linux"}},
        ]}
    ).encode()  # fmt: skip
    kind = "application/vnd.oci.image.index.v1+json"
    name = {"org.opencontainers.image.ref.name": "oci/app:9"}
    index = {"manifests": [{"mediaType": kind, "digest": digest_of(inner), "annotations": name}]}
    files: dict[str, bytes | str] = {
        f"./blobs/sha256/{digest_of(data)[7:]}": data for data in (BASE, packed, config, manifest, inner)
    }
    if blob is not None:
        files[f"./blobs/sha256/{digest_of(packed)[7:]}"] = blob
    return {"oci-layout": b"{}", "index.json": json.dumps(index).encode(), **files}


def test_load_of_an_oci_layout(store: ImageStore) -> None:
    (image,) = store.load(io.BytesIO(tar_of(oci_archive())))
    assert image.repo_tags == ("oci/app:9",) and len(image.layers) == 2


def test_a_layer_that_is_there_by_a_chain_of_links(store: ImageStore) -> None:
    manifest = json.dumps([{"Config": "two.json", "RepoTags": ["linked"], "Layers": ["l5/layer.tar"]}]).encode()
    links = {"l4/layer.tar": "../l3/layer.tar", "l5/layer.tar": "../l4/layer.tar"}
    (image,) = store.load(io.BytesIO(tar_of(docker_archive(**{"manifest.json": manifest, **links}))))
    assert image.layers == (digest_of(BASE),)


@pytest.mark.parametrize("what", ["manifests", "schemaVersion", "os"])
def test_a_document_of_another_digest_is_refused(store: ImageStore, what: str) -> None:
    """The layers are right, and the documents valid: only their digests tell that somebody changed them."""
    files = oci_archive()
    blobs = {name: data for name, data in files.items() if name.startswith("./blobs") and isinstance(data, bytes)}
    (name,) = [name for name, data in blobs.items() if data.startswith(f'{{"{what}"'.encode())]
    files[name] = blobs[name] + b" "
    with pytest.raises(InvalidArchive, match=r"the content of sha256:.* has digest"):
        store.load(io.BytesIO(tar_of(files)))
    assert store.list() == [] and leftovers(store) == []


def test_load_and_save_of_a_layer_compressed_by_zstd(store: ImageStore, tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    pack: Callable[[bytes], bytes] = zstandard.ZstdCompressor().compress
    (image,) = store.load(io.BytesIO(tar_of(oci_archive(pack=pack))))
    described = store.layout.json(image.manifest)["layers"][1]
    assert described["mediaType"] == "application/vnd.oci.image.layer.v1.tar+zstd"
    assert Path(store.layout.blob(described["digest"])).read_bytes() == pack(TOP), "kept as it came"
    assert Path(store.layers.diff(image.layers[1]), "c").read_bytes() == b"3"
    saved = io.BytesIO()
    store.save(["oci/app:9"], saved)
    assert ImageStore(str(tmp_path / "other")).load(io.BytesIO(saved.getvalue()))[0].id == image.id


def test_a_layer_compressed_by_zstd_without_its_library_says_what_to_install(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(NotSupported) as caught:
        store.load(io.BytesIO(tar_of(oci_archive(pack=lambda data: b"\x28\xb5\x2f\xfd" + data))))
    assert "[fast]" in caught.value.hint and leftovers(store) == []


def test_the_store_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir(mode=0o755)
    old = os.umask(0)
    try:
        store = ImageStore(str(tmp_path))
        store.import_rootfs(rootfs(), "app")
    finally:
        os.umask(old)
    assert (tmp_path / "images").stat().st_mode & 0o777 == 0o700
    modes = {str(path.relative_to(store.path)): path.stat().st_mode & 0o077 for path in Path(store.path).iterdir()}
    assert modes == dict.fromkeys(modes, 0)


BAD_ARCHIVES: dict[str, tuple[dict[str, bytes | str], str]] = {
    "nothing known": ({"x": b"y"}, "neither manifest.json nor index.json"),
    "manifest is no JSON": (docker_archive(**{"manifest.json": b"{"}), "manifest.json is no JSON"),
    "manifest is no list": (docker_archive(**{"manifest.json": b"{}"}), "manifest.json is not a list"),
    "deep JSON": (docker_archive(**{"manifest.json": b"[" * 100_000}), "is no JSON"),
    "config is missing": (docker_archive(**{"one.json": "nowhere"}), "one.json is missing"),
    "links in a ring": (docker_archive(**{"l1/layer.tar": "../l3/layer.tar"}), "layer.tar is missing"),
    "config is no object": (docker_archive(**{"one.json": b"[]"}), "is not a JSON object"),
    "another layer": (docker_archive(**{"l2/layer.tar": BASE}), "invalid diffID for layer 1: expected"),
    "layers do not match": (docker_archive(**{"one.json": config_of(BASE)}), "length mismatch: expected 1, got 2"),
    "no layers": (docker_archive(**{"manifest.json": b'[{"Config":"e.json"}]', "e.json": config_of()}), "no layers"),
    "truncated layer": (docker_archive(**{"l1/layer.tar": BASE[:700]}), "truncated tar archive"),
    "hostile layer": (docker_archive(**{"l1/layer.tar": tar_of({"../x": b""})}), "leads out"),
    "windows": (docker_archive(**{"two.json": config_of(BASE, os="windows")}), "cannot load windows image on linux"),
    "bad name": (docker_archive(**{"manifest.json": docker_archive()["manifest.json"].replace(b"app:1", b"A")}), "lowercase"),  # type: ignore[arg-type]
    "blob of another digest": (oci_archive(blob=gzip.compress(BASE)), "the content of sha256:.* has digest"),
    "no image for us": (oci_archive(platform="plan9"), "no image for linux/"),
    "digest that is a path": ({"index.json": b'{"manifests":[{"digest":"sha256:../../x"}]}'}, "is no sha256 digest"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_bad_archives_leave_nothing(store: ImageStore, case: str) -> None:
    files, message = BAD_ARCHIVES[case]
    with pytest.raises(InvalidArgument, match=message):
        store.load(io.BytesIO(tar_of(files)))
    assert store.list() == [] and leftovers(store) == os.listdir(store.path + "/layers") == store.layout.blobs() == []


def test_save_and_load_are_inverse(store: ImageStore, tmp_path: Path) -> None:
    one, two = store.load(io.BytesIO(tar_of(docker_archive())))
    output = io.BytesIO()
    store.save(["app:1", two.id], output)
    other = ImageStore(str(tmp_path / "other"))
    loaded = other.load(io.BytesIO(output.getvalue()))
    assert [image.id for image in loaded] == [one.id, two.id]
    assert [image.repo_tags for image in loaded] == [("app:1",), ()]
    with tarfile.open(fileobj=io.BytesIO(output.getvalue())) as archive:
        names = archive.getnames()
        assert {"manifest.json", "index.json", "oci-layout"} < set(names) and len(names) == len(set(names))
        archive_index = json.load(archive.extractfile("index.json"))  # type: ignore[arg-type]
    assert {entry["digest"] for entry in archive_index["manifests"]} == {one.manifest, two.manifest}
    with pytest.raises(NoSuchImage):
        store.save(["app:1", "nope"], io.BytesIO())


def test_a_name_that_could_be_an_id_is_saved_with_the_image(store: ImageStore, tmp_path: Path) -> None:
    image = store.import_rootfs(rootfs(), "cafe")
    saved = io.BytesIO()
    store.save(["cafe", image.id, image.id.removeprefix("sha256:"), image.id.removeprefix("sha256:")[:12]], saved)
    (loaded,) = ImageStore(str(tmp_path / "other")).load(io.BytesIO(saved.getvalue()))
    assert (loaded.id, loaded.repo_tags) == (image.id, ("cafe:latest",))


# -- what goes wrong ---------------------------------------------------------------------------------------------


CHILD = """
import os, sys
from pynet.runtime.images.store import ImageStore
store = ImageStore(sys.argv[1])
print("open", flush=True)
store.import_rootfs(sys.stdin.buffer.raw, "killed")
print("done", flush=True)
"""


@pytest.fixture
def importer(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that imports what it is sent."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        yield process
        process.kill()


def test_kill_9_while_unpacking_leaves_what_the_next_start_removes(
    importer: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert importer.stdin and importer.stdout
    assert importer.stdout.readline() == b"open\n"
    importer.stdin.write(tar_of({"a": b"1", "big": b"x" * 3_000_000})[:2_500_000])  # a pipe: most of it has been read
    (work,) = os.listdir(tmp_path / "images/tmp")
    store = ImageStore(str(tmp_path))
    assert os.listdir(tmp_path / "images/tmp") == [work], "the workspace of a living process stays"
    assert store.list() == []
    importer.send_signal(signal.SIGKILL)
    importer.wait()
    assert os.listdir(tmp_path / "images/tmp") == [work] and os.listdir(tmp_path / f"images/tmp/{work}")
    assert ImageStore(str(tmp_path)).list() == []
    assert os.listdir(tmp_path / "images/tmp") == os.listdir(tmp_path / "images/layers") == []


def test_what_a_kill_between_the_renames_leaves_is_removed(store: ImageStore, tmp_path: Path) -> None:
    image = store.import_rootfs(rootfs(), "app")
    store.layout.write([])  # layer, blobs, configuration have their names; the index does not know them
    assert os.listdir(tmp_path / "images/layers") and store.layout.blobs()
    again = ImageStore(str(tmp_path))
    assert os.listdir(tmp_path / "images/layers") == again.layout.blobs() == []
    assert again.import_rootfs(rootfs(), "app").layers == image.layers


def test_what_can_not_be_swept_keeps_nobody_from_starting(
    store: ImageStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Strangers among the workspaces, and a layer in place of which there is something else."""
    image = store.import_rootfs(rootfs(), "app")
    tmp = tmp_path / "images/tmp"
    (tmp / "file").write_text("left")
    (tmp / "link").symlink_to(tmp_path)
    os.mkfifo(tmp / "fifo")
    again = ImageStore(str(tmp_path))
    assert again.get("app") == image and os.listdir(tmp) == ["link"], "a link is nobody's workspace"
    assert "link is not swept" in caplog.text


def test_an_image_whose_blob_is_lost_keeps_nobody_from_starting(
    store: ImageStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = store.import_rootfs(rootfs(), "app")
    os.unlink(store.layout.blob(image.manifest))
    again = ImageStore(str(tmp_path))
    assert "what no image names is kept" in caplog.text and image.manifest in caplog.text
    assert os.listdir(tmp_path / "images/layers"), "what nobody can tell unused is not removed"
    with pytest.raises(InternalError, match="misses a readable blob"):
        again.get("app")


def test_the_same_layer_from_many_threads_and_a_process(
    store: ImageStore, importer: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    data = tar_of({f"f{i}": b"x" * 100 for i in range(300)})
    assert importer.stdin and importer.stdout
    barrier = threading.Barrier(5)
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            barrier.wait(10)
            ImageStore(str(tmp_path)).import_rootfs(io.BytesIO(data), f"t{index % 2}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    assert importer.stdout.readline() == b"open\n"
    barrier.wait(10)
    importer.stdin.write(data)
    importer.stdin.close()
    for thread in threads:
        thread.join(30)
    assert importer.stdout.readline() == b"done\n"
    assert failures == []
    assert {tag for image in store.list() for tag in image.repo_tags} == {"t0:latest", "t1:latest", "killed:latest"}
    assert len(os.listdir(tmp_path / "images/layers")) == 1 and leftovers(store) == []
    assert len(os.listdir(store.layers.diff(store.get("t0").layers[0]))) == 300


def test_a_source_that_fails_leaves_nothing(store: ImageStore) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1, /) -> bytes:
            raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        store.import_rootfs(Broken(), "a")
    assert leftovers(store) == []


def test_a_state_directory_of_a_newer_version_is_left_alone(store: ImageStore, tmp_path: Path) -> None:
    index = tmp_path / "images/index.json"
    newer = index.read_bytes().replace(b'"pynet.schema":"1"', b'"pynet.schema":"2"')
    index.write_bytes(newer)
    with pytest.raises(StateTooNew):
        ImageStore(str(tmp_path))
    assert index.read_bytes() == newer
    for damaged in (b"", b"[]", b'{"manifests":3}', b"{"):
        index.write_bytes(damaged)
        with pytest.raises(InternalError, match="is damaged"):
            ImageStore(str(tmp_path))


def test_a_full_disk_is_one_clear_error() -> None:
    with (
        pytest.raises(StoreFull, match="below /images: No space left on device") as caught,
        disk_errors("/images"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert "free space" in caught.value.hint


# -- bootstrap ---------------------------------------------------------------------------------------------------


def test_bootstrap_twice_gives_the_same_image(store: ImageStore, tmp_path: Path) -> None:
    try:
        image = store.bootstrap()
    except NotSupported as error:
        assert "busybox-static" in error.hint
        pytest.skip("no static busybox here")
    assert store.bootstrap().id == store.bootstrap("x/y:z").id == image.id
    assert time.time() - 60 < image.created_unix <= time.time(), "made now, however old the binary is"
    assert ImageStore(str(tmp_path / "other")).bootstrap().layers == image.layers
    store.remove("x/y:z")
    assert image.repo_tags == ("busybox:latest",) and image.defaults["Cmd"] == ["sh"]
    root = Path(store.layers.diff(image.layers[0]))
    assert os.readlink(root / "bin/httpd") == "busybox" and (root / "bin/busybox").stat().st_mode & 0o777 == 0o755
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777 and "root:x:0:0" in (root / "etc/passwd").read_text()
    ran = subprocess.run([root / "bin/busybox", "sh", "-c", "echo it runs"], capture_output=True, check=True)
    assert ran.stdout == b"it runs\n"


def test_a_dynamic_busybox_is_refused_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_bootstrap, "PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotSupported, match="no busybox is installed"):
        image_bootstrap.find_busybox()
    for content in (Path(sys.executable).read_bytes(), b"#!/bin/sh\n", b"\x7fELF"):
        (tmp_path / "busybox").write_bytes(content)
        (tmp_path / "busybox").chmod(0o755)
        with pytest.raises(NotSupported, match="not statically linked") as caught:
            image_bootstrap.find_busybox()
        assert caught.value.hint.startswith("apt install busybox-static")


# -- changes -----------------------------------------------------------------------------------------------------


def test_every_instruction() -> None:
    changes = [
        "CMD echo $HOME", 'entrypoint ["/init", "-x"]', "ENV A=1", 'ENV A="2 3" B=4', "ENV C the rest = it",
        "EXPOSE 80 53/udp 8000-8002/tcp", "LABEL a=b 'c d'=e", "USER web:www", "WORKDIR /srv", "WORKDIR sub",
        'VOLUME ["/data one"]', "VOLUME /two /three", "STOPSIGNAL SIGQUIT",
    ]  # fmt: skip
    before = {"Env": ["A=0", "Z=1"]}
    assert apply_changes(before, changes) == {
        "Cmd": ["/bin/sh", "-c", "echo $HOME"],
        "Entrypoint": ["/init", "-x"],
        "Env": ["Z=1", "A=2 3", "B=4", "C=the rest = it"],
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}},
        "Labels": {"a": "b", "c d": "e"},
        "User": "web:www",
        "WorkingDir": "/srv/sub",
        "Volumes": {"/data one": {}, "/two": {}, "/three": {}},
        "StopSignal": "SIGQUIT",
    }
    assert before == {"Env": ["A=0", "Z=1"]}


@pytest.mark.parametrize(
    "change",
    [
        "RUN x",
        "",
        "ENV",
        "ENV A",
        "ENV A=1 B",
        "EXPOSE 0",
        "EXPOSE 65536",
        "EXPOSE 9-8",
        "EXPOSE x",
        "LABEL 'a=b",
        "USER",
    ],
)
def test_bad_instructions(change: str) -> None:
    with pytest.raises(InvalidArgument):
        apply_changes({}, [change])


def test_chain_ids() -> None:
    one, two = digest_of(b"1"), digest_of(b"2")
    assert chain_ids([]) == [] and chain_ids([one]) == [one]
    assert chain_ids([one, two]) == [one, digest_of(f"{one} {two}".encode())]


def test_a_damaged_archive_is_the_callers_fault() -> None:
    assert InvalidArchive("x").status == 400 and InvalidReference().status == 400
