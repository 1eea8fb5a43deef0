"""One layer on its way in: from a stream to a blob, both digests and an unpacked directory, in a workspace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from .errors import InvalidArchive
from .inflate import Inflated, Readable
from .layers import Layer, Workspace, chain_ids, seal
from .layout import Descriptor, layer_type
from .limits import Budget
from .model import PreparedLayer
from .unpack import unpack


class Prepare(Protocol):
    """``prepare_layer`` with the workspace and the budget given."""

    def __call__(
        self, source: Readable, *, below: Sequence[PreparedLayer], diff_id: str, digest: str
    ) -> PreparedLayer: ...


def prepare_layer(
    work: Workspace,
    budget: Budget,
    source: Readable,
    *,
    below: Sequence[PreparedLayer] = (),
    diff_id: str = "",
    digest: str = "",
) -> PreparedLayer:
    """Store and unpack one layer in *work*, over the layers *below* (lowest first); check digests when given."""
    blob, unpacked = work.name("blob"), work.name("layer")
    diff = os.path.join(unpacked, "diff")
    os.makedirs(diff, mode=0o700)
    lower = [os.path.join(layer.unpacked, "diff") for layer in reversed(below)]
    with open(blob, "xb") as file:
        stream = Inflated(source, budget=budget, copy=file)
        result = unpack(stream, diff, lower=lower, budget=budget)
    if digest and stream.digest != digest:
        raise InvalidArchive(f"layer {len(below)}: the content of {digest} has digest {stream.digest}")
    if diff_id and stream.diff_id != diff_id:
        raise InvalidArchive(f'invalid diffID for layer {len(below)}: expected "{diff_id}", got "{stream.diff_id}"')
    chain = chain_ids([*([below[-1].chain] if below else []), stream.diff_id])[-1]
    seal(unpacked, Layer(chain, stream.diff_id, result.size, result.entries))
    descriptor: Descriptor = {
        "mediaType": layer_type(stream.copy_compression),
        "digest": stream.copy_digest,
        "size": os.path.getsize(blob),
    }
    return PreparedLayer(chain, unpacked, blob, descriptor, tuple(result.warnings))
