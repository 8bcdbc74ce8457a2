"""A checkpoint's name and its `manifest.json`: what it holds, and the hash of every byte of it. Torch-free."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.data.stretches import Stretches, from_json
from pipeline.dataset.files import canonical_json, is_plain_name, render_json, write_json

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
_PUBLISHED = re.compile(r"step-(\d{8,})")
Piece = tuple[str, str, int, int]  # file, key in it, first and last + 1 of the flattened tensor's elements


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def published(checkpoints: Path) -> list[Path]:
    """Published checkpoints, oldest first. Whether they verify is another question."""
    if not checkpoints.is_dir():
        return []
    found = [(int(m[1]), p) for p in checkpoints.iterdir() if (m := _PUBLISHED.fullmatch(p.name))]
    return [path for _, path in sorted(found)]


class Damaged(Exception):
    """A checkpoint that must not be used; the message names the file and what is wrong with it."""


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
    files: list[dict[str, Any]]  # name, bytes, sha256
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


def read_checkpoint_manifest(directory: Path) -> CheckpointManifest:
    """Raises Damaged where it is missing, not ours, or not what was written."""
    path = directory / MANIFEST_NAME
    try:
        written = path.read_bytes()
        body = json.loads(written)
        if written != render_json(body):
            raise Damaged(f"{path}: not byte for byte what was written")
        stated = body.pop("self_sha256")
        if stated != _self_hash(body):
            raise Damaged(f"{path}: its content does not have the hash that it states")
        if body["version"] != FORMAT_VERSION:
            raise Damaged(f"{path}: format version {body['version']}, this vitstream reads {FORMAT_VERSION}")
        manifest = CheckpointManifest(**body)
        names = [file["name"] for file in manifest.files]
        unsafe = [name for name in names if not is_plain_name(name)]
        if unsafe:
            raise Damaged(f"{path}: file name {unsafe[0]!r} is not a plain name")
        unlisted = {piece[0] for pieces in manifest.tensors.values() for piece in pieces} - set(names)
        if unlisted:
            raise Damaged(f"{path}: refers to {min(unlisted)!r}, which is not among its hashed files")
        return manifest
    except FileNotFoundError:
        raise Damaged(f"{path}: missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path}: not a readable manifest ({type(error).__name__}: {error})") from None


def _self_hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body)).hexdigest()
