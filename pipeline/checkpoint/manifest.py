"""A checkpoint's name and its `manifest.json`: what it holds, and the hash of every byte of it. Torch-free."""

import errno
import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from pipeline.data.stretches import Stretches, from_json
from pipeline.dataset.errors import UsageError, WorkFailed
from pipeline.dataset.files import canonical_json, is_plain_name, open_regular, render_json, write_json

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
MOST_BYTES: Final = 256 * 2**20  # of a manifest: of ViT-H in slices for 2,000 ranks
_MOST_BLOCK_BYTES: Final = 64 * 2**20
FLOAT_BYTES: Final = 4  # all tensors are float32
_NOT_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)  # EINVAL: a pipe or a device, say
_PUBLISHED = re.compile(r"step-\d{8,}", re.ASCII)
Piece = tuple[str, str, int, int]  # file, key in it, first and last + 1 of the flattened tensor's elements


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The step in a published checkpoint's name."""
    return int(checkpoint.name.removeprefix("step-"))


def published(checkpoints: Path) -> list[Path]:
    """Published checkpoints, oldest first. Whether they verify is another question."""
    if not checkpoints.is_dir():
        return []
    return sorted((p for p in checkpoints.iterdir() if _PUBLISHED.fullmatch(p.name)), key=step_of)


class Damaged(Exception):
    """A checkpoint that must not be used; the message names the file and what is wrong with it.

    `is_absent`: the file is not there, or is no file. On a network file system another machine may see it.
    """

    def __init__(self, message: str, is_absent: bool = False) -> None:
        super().__init__(message)
        self.is_absent = is_absent


def fault_of(path: Path, error: OSError) -> Damaged | WorkFailed:
    """What it means that one of a checkpoint's files could not be read: it is not there, or this says nothing of it.

    A failing disk or mount, a permission, too many open files: all of these pass, and the checkpoint is as it was.
    """
    if error.errno in _NOT_THERE:
        reason = "missing" if error.errno == errno.ENOENT else f"cannot be read ({error.strerror})"
        return Damaged(f"{path}: {reason}", is_absent=True)
    return WorkFailed(f"{path}: cannot be read now ({error.strerror}); it is left as it is")


@dataclass(frozen=True)
class CheckpointManifest:
    """Everything about a checkpoint but the tensors' values."""

    step: int  # optimizer steps done
    optimizer_step: int
    consumed: int  # samples used
    world_size: int
    zero_stage: int
    precision: str
    config: dict[str, Any]  # the attempt's, resolved, without run_dir
    config_hash: str
    parent: str | None  # the checkpoint before this one
    data: dict[str, Any]  # fingerprint, order, ledger
    files: list[dict[str, Any]]  # name, bytes, sha256; block_bytes and the blocks' xxh3, which older ones lack
    shapes: dict[str, list[int]]  # of each parameter
    tensors: dict[str, list[Piece]]  # "KIND/NAME" -> where its elements lie
    version: int = FORMAT_VERSION
    classes: list[str] = field(default_factory=list)  # names, in the order of the head's outputs
    code: dict[str, str] = field(default_factory=dict)  # version and, of a checkout, git_commit; older ones: unknown
    losses: list[float] = field(default_factory=list)  # of the last steps, the newest last

    @property
    def stretches(self) -> Stretches:
        """Which steps had which batch size."""
        return from_json(self.data.get("stretches"), self.config["batch_size"])

    def write(self, directory: Path) -> None:
        body = asdict(self)
        write_json(directory / MANIFEST_NAME, body | {"self_sha256": _self_hash(body)})


_TYPES: Final = TypeAdapter(CheckpointManifest)  # a right hash says nothing of what was hashed


class _Batches(BaseModel):
    batch_size: Annotated[int, Field(gt=0)]


class _Data(BaseModel):
    fingerprint: str
    order: dict[str, Any]
    ledger: dict[str, Any]
    stretches: list[Annotated[list[int], Field(min_length=3, max_length=3)]] | None = None
    holes: dict[str, dict[str, list[int]]] = {}


class _Needed(BaseModel):
    """What a start takes out of the two fields that are dicts of many things."""

    config: _Batches
    data: _Data


def read_checkpoint_manifest(directory: Path) -> CheckpointManifest:
    """A checkpoint's manifest.

    Raises:
        Damaged: it is missing, not ours, not what was written, or claims what cannot be.
        UsageError: it is what was written, by another version of vitstream that writes another format.
        WorkFailed: it cannot be read now.
    """
    path = directory / MANIFEST_NAME
    try:
        with open_regular(path) as file:
            written = file.read(MOST_BYTES + 1)
        if len(written) > MOST_BYTES:
            raise Damaged(f"{path}: more than {MOST_BYTES:,} bytes are not a manifest")
        body = json.loads(written)
        if written != render_json(body):
            raise Damaged(f"{path}: not byte for byte what was written")
        stated = body.pop("self_sha256")
        if stated != _self_hash(body):
            raise Damaged(f"{path}: its content does not have the hash that it states")
        _refuse_other_format(path, body)
        _TYPES.validate_json(written, strict=True)
        _Needed.model_validate({"config": body["config"], "data": body["data"]}, strict=True)
        manifest = CheckpointManifest(**body)
        impossible = _impossible(manifest)
    except OSError as error:
        raise fault_of(path, error) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Damaged(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path}: not a readable manifest ({type(error).__name__}: {error})") from None
    if impossible:
        raise Damaged(f"{path}: {impossible}")
    return manifest


def _refuse_other_format(path: Path, body: dict[str, Any]) -> None:
    """Raises UsageError where another version wrote what may well be sound: it is not for us to set it aside."""
    unknown = sorted(body.keys() - {each.name for each in fields(CheckpointManifest)})
    if body["version"] == FORMAT_VERSION and not unknown:
        return
    extra = f" with {', '.join(unknown)}" if unknown else ""
    by = body["code"]["version"] if "version" in body.get("code", {}) else "unknown"
    raise UsageError(
        f"{path}: is of format version {body['version']}{extra}, written by vitstream {by}; this is vitstream "
        f"{version('vitstream')}, which reads format version {FORMAT_VERSION}: go on with the one that wrote it"
    )


def _impossible(manifest: CheckpointManifest) -> str | None:
    """What a manifest claims that cannot be, though its hash is right; else None.

    Each tensor is covered exactly once, by files that are large enough for it: so nothing is ever allocated for it that
    is not on the disk.
    """
    names = [file["name"] for file in manifest.files]
    unsafe = next((name for name in names if not is_plain_name(name)), None)
    if unsafe is not None or len(set(names)) < len(names):
        return f"file name {unsafe!r} is not a plain name" if unsafe is not None else "lists a file twice"
    odd = next((file["name"] for file in manifest.files if not _is_file(**file)), None)
    if odd is not None:
        return f"what it says of {odd} cannot be"
    used: Counter[str] = Counter()
    for key, pieces in manifest.tensors.items():
        end = 0
        for file, _, start, stop in sorted(pieces, key=lambda piece: piece[2]):
            if start != end or stop <= start:
                return f"the pieces of {key} do not cover it exactly once"
            end = stop
            used[file] += FLOAT_BYTES * (stop - start)
        if end != prod(_sides(manifest.shapes[key.partition("/")[2]])):
            return f"the pieces of {key} do not cover it exactly once"
    unlisted = min(used.keys() - set(names), default=None)
    if unlisted is not None:
        return f"refers to {unlisted!r}, which is not among its hashed files"
    small = next((file for file in manifest.files if used[file["name"]] > file["bytes"]), None)
    if small is not None:
        return f"{small['name']} of {small['bytes']:,} bytes is to hold {used[small['name']]:,} bytes of tensors"
    kinds = {key.partition("/")[0] for key in manifest.tensors}
    if manifest.tensors.keys() != {f"{kind}/{name}" for kind in kinds for name in manifest.shapes}:
        return "some kind of value is there for some of the parameters only"
    return None


def _is_file(
    name: str, bytes: int, sha256: str, block_bytes: int = _MOST_BLOCK_BYTES, blocks: list[str] | None = None
) -> bool:
    sizes = type(bytes) is int and bytes >= 0 and type(block_bytes) is int and 0 < block_bytes <= _MOST_BLOCK_BYTES
    return sizes and (blocks is None or len(blocks) == -(-bytes // block_bytes))


def _sides(shape: list[int]) -> list[int]:
    if not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(f"shape {shape}")
    return shape


def _self_hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body)).hexdigest()
