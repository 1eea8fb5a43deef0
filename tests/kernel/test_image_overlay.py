"""Images as overlayfs sees them: for root, and for an ordinary user in a namespace with one user id."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pynet.plugins.isolation import maps_every_uid

pytestmark = pytest.mark.kernel

SCRIPT = r"""
import errno, io, os, stat, sys, tarfile
from pynet.netlib.kernel import syscall as k
from pynet.runtime.images.errors import StoreFull
from pynet.runtime.images.store import ImageStore
from pynet.runtime.images.unpack import is_rootless

rootless = sys.argv[1] == "user"
assert is_rootless() == rootless
k.mount(None, "/", None, k.MS_REC | k.MS_PRIVATE)
k.mount("none", "/mnt", "tmpfs", 0, "size=16m")
os.makedirs("/mnt/m")
store = ImageStore("/mnt/root")

def tar_of(*items):
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for name, fields in items:
            info = tarfile.TarInfo(name)
            data = fields.pop("data", b"")
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return output.getvalue()

FOLDER = {"type": tarfile.DIRTYPE, "mode": 0o755}
base = tar_of(
    ("gone", {"data": b"x"}), ("dir", dict(FOLDER)), ("dir/old", {"data": b"x"}), ("kept", dict(FOLDER)),
    ("kept/a", {"data": b"1"}), ("kept/b", {"data": b"2"}), ("swap", dict(FOLDER)), ("swap/old", {}),
    ("suid", {"data": b"x", "mode": 0o4755, "uid": 1234}), ("root-suid", {"data": b"x", "mode": 0o4755}),
    ("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3, "mode": 0o666}), ("pipe", {"type": tarfile.FIFOTYPE}),
)
top = tar_of(
    (".wh.gone", {}), ("dir/.wh..wh..opq", {}), ("dir/new", {"data": b"y"}), ("kept/.wh.a", {}),
    (".wh.swap", {}), ("swap", dict(FOLDER)), ("swap/new", {}),
)
import json
from pynet.runtime.images.layout import digest_of
config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [digest_of(base), digest_of(top)]}}).encode()
manifest = json.dumps([{"Config": "c", "RepoTags": ["two"], "Layers": ["l1", "l2"]}]).encode()
archive = tar_of(*((n, {"data": d}) for n, d in (("c", config), ("l1", base), ("l2", top), ("manifest.json", manifest))))
(image,) = store.load(io.BytesIO(archive))

root = store.rootfs(image, "/mnt/root/containers/c")
options = f"lowerdir={':'.join(root['lower'])},upperdir={root['upper']},workdir={root['work']}"
k.mount("overlay", "/mnt/m", "overlay", 0, options + (",userxattr" if rootless else ""))
os.chdir("/mnt/m")

def names(path="."):
    return sorted(os.listdir(path))

present = ["dir", "kept", "pipe", "root-suid", "suid", "swap"] + ([] if rootless else ["null"])
assert names() == sorted(present), names()
assert names("dir") == ["new"] and names("kept") == ["b"] and names("swap") == ["new"], [names(d) for d in present[:2]]
suid, own = os.stat("suid"), os.stat("root-suid")
assert (suid.st_uid, stat.S_IMODE(suid.st_mode)) == ((0, 0o755) if rootless else (1234, 0o4755)), suid
assert (own.st_uid, stat.S_IMODE(own.st_mode)) == (0, 0o4755)
if not rootless:
    with open("null", "rb") as null:
        assert os.stat("null").st_rdev == os.makedev(1, 3) and null.read() == b""
os.unlink("kept/b")
assert names("kept") == [] and names(root["lower"][-1] + "/kept") == ["a", "b"], "layers are never written"

# a full disk
os.chdir("/")
before = sorted(os.listdir("/mnt/root/images/layers"))
for make in (lambda data: store.import_rootfs(io.BytesIO(data), "big"), lambda data: store.load(io.BytesIO(data))):
    try:
        make(tar_of(*((f"f{i}", {"data": os.urandom(1 << 20)}) for i in range(17))))
    except StoreFull as error:
        assert "/mnt/root/images" in str(error) and "free space" in error.hint
    else:
        raise AssertionError("17 MiB fitted into 16")
    assert os.listdir("/mnt/root/images/tmp") == []
assert sorted(os.listdir("/mnt/root/images/layers")) == before and store.list() == [image]
print("fine")
"""


def run(kind: str, *, prefix: list[str]) -> None:
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [*prefix, sys.executable, "-W", "error", "-c", SCRIPT, kind],
        capture_output=True, text=True, timeout=60, env=environment, check=False, cwd="/",
    )  # fmt: skip
    if "unshare failed" in result.stderr:
        pytest.skip(f"no namespaces here: {result.stderr.strip()}")
    assert (result.stdout, result.stderr) == ("fine\n", "")


@pytest.mark.skipif(not maps_every_uid(), reason="needs root with every uid")
def test_for_root() -> None:
    run("root", prefix=["unshare", "-m"])


def test_in_a_user_namespace() -> None:
    """Also when the tests run as root: there a user namespace maps one id as well, and gives no devices."""
    run("user", prefix=["unshare", "-Urm"])
