"""Parameters on disk: arrays in an ``.npz`` without objects, and beside it a ``.json`` that says what they belong to.

    <stem>.npz    the arrays, by name
    <stem>.json   kind, fields that must agree, name, dtype and shape of each array, SHA-256 of the .npz

The hash tells a damaged file from a whole one, the fields tell parameters of another shape or vocabulary. What is
packed here is bytes: whoever keeps them also sees to it that both files appear together.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .types import Float, Policy

SCHEMA = 1
Arrays = dict[str, NDArray[Any]]
Fields = dict[str, Any]


class Storable(Protocol):
    """A reward model that can be kept: a kind, fields that JSON holds, and arrays."""

    kind: ClassVar[str]

    def state(self) -> tuple[Fields, Arrays]:
        """All that `from_state` needs to make it anew."""
        ...


M = TypeVar("M")


def vocabulary_hash(*vocabularies: tuple[str, ...]) -> str:
    """SHA-256 of lists of words in their order: a token means the same word wherever it is equal."""
    return hashlib.sha256(json.dumps(vocabularies).encode()).hexdigest()


def pack(
    stem: str, kind: str, fields: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> dict[str, bytes]:
    """The two files of some arrays, name -> content.

    Parameters
    ----------
    stem : str
        Name of both files without its ending.
    kind : str
        What it is; `unpack` refuses any other.
    fields : mapping
        What JSON holds.
    arrays : mapping
        Of numbers: anything else would need pickle.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{name}: an array of {array.dtype}, one of numbers is needed")
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    header = {
        "schema": SCHEMA,
        "kind": kind,
        "fields": dict(fields),
        "arrays": {name: _described(array) for name, array in arrays.items()},
        "sha256": hashlib.sha256(content.getvalue()).hexdigest(),
    }
    text = json.dumps(header, indent=1, allow_nan=False) + "\n"
    return {f"{stem}.npz": content.getvalue(), f"{stem}.json": text.encode()}


def unpack(folder: Path, stem: str, kind: str, needed: Mapping[str, Any]) -> tuple[Fields, Arrays]:
    """Read what `pack` gave.

    Parameters
    ----------
    folder : Path
    stem, kind : str
    needed : mapping
        Fields that have to have these values.

    Raises
    ------
    InputError
        One line with the file, what came and what is needed.
    """
    path = folder / f"{stem}.json"
    header = _header(path)
    if header["kind"] != kind:
        raise InputError(f"{path}: parameters of kind '{header['kind']}' came, '{kind}' is needed")
    for name, value in needed.items():
        if name not in header["fields"]:
            raise InputError(f"{path}: field '{name}' is missing")
        found = header["fields"][name]
        if found != value:
            raise InputError(f"{path}: made for {name} {_short(found)}, {_short(value)} is needed")
    return header["fields"], _arrays(folder / f"{stem}.npz", header)


# --- policies and reward models ----------------------------------------------------------------------------------


def pack_policy(stem: str, policy: Policy, name: str, vocabulary: str) -> dict[str, bytes]:
    """The files of any policy: `params` in float32. `name` is that of the policy, `vocabulary` a `vocabulary_hash`."""
    params = np.asarray(policy.params, np.float32)
    return pack(stem, "policy", _policy_fields(policy, name, vocabulary), {"params": params})


def load_policy(folder: Path, stem: str, blank: Policy, name: str, vocabulary: str) -> Policy:
    """A copy of `blank`, which has the shape that is needed, with the parameters that were kept."""
    _, arrays = unpack(folder, stem, "policy", _policy_fields(blank, name, vocabulary))
    policy = blank.clone()
    policy.params[:] = _array(folder / f"{stem}.npz", arrays, "params", blank.params)
    return policy


def _policy_fields(policy: Policy, name: str, vocabulary: str) -> Fields:
    fields = {"vocab_size": policy.vocab_size, "max_length": policy.max_length, "vocabulary": vocabulary}
    return {"policy": name, **fields}


def pack_reward_model(stem: str, model: Storable, vocabulary: str) -> dict[str, bytes]:
    """The files of a reward model; its arrays keep their own dtype, so that it scores the same bits."""
    fields, arrays = model.state()
    return pack(stem, "reward model", {"model": model.kind, "vocabulary": vocabulary, **fields}, arrays)


def load_reward_model(folder: Path, stem: str, kinds: Mapping[str, type[M]], vocabulary: str) -> M:
    """The reward model that was kept; `kinds` are the classes it may be of, by their `kind`."""
    path = folder / f"{stem}.json"
    fields, arrays = unpack(folder, stem, "reward model", {"vocabulary": vocabulary})
    kind = str(fields.get("model"))
    if kind not in kinds:
        raise InputError(f"{path}: a model '{kind}' came, {' or '.join(kinds)} is needed")
    try:
        model: M = kinds[kind].from_state(fields, arrays)  # type: ignore[attr-defined]
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing, a '{kind}' model needs it") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None
    return model


def _array(path: Path, arrays: Arrays, name: str, like: Float) -> NDArray[Any]:
    if name not in arrays:
        raise InputError(f"{path}: holds {', '.join(arrays) or 'nothing'}, '{name}' is needed")
    if arrays[name].shape != like.shape:
        raise InputError(f"{path}: '{name}' has shape {arrays[name].shape}, {like.shape} is needed")
    return arrays[name]


# --- reading -----------------------------------------------------------------------------------------------------


def _header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged, not valid JSON ({error})") from None
    kinds = {"schema": int, "kind": str, "fields": dict, "arrays": dict, "sha256": str}
    if not isinstance(header, dict):
        raise InputError(f"{path}: damaged, a JSON object is needed")
    for name, kind in kinds.items():
        if not isinstance(header.get(name), kind):
            raise InputError(f"{path}: field '{name}' is missing or of the wrong type")
    if header["schema"] != SCHEMA:
        raise InputError(f"{path}: schema {header['schema']} came, {SCHEMA} is needed")
    return header


def _arrays(path: Path, header: Mapping[str, Any]) -> Arrays:
    content = _bytes(path)
    if hashlib.sha256(content).hexdigest() != header["sha256"]:
        raise InputError(f"{path}: damaged, its SHA-256 is not that of {path.stem}.json")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not arrays of numbers ({error}), an .npz is needed") from None
    found = {name: _described(array) for name, array in arrays.items()}
    if found != header["arrays"]:
        raise InputError(f"{path}: holds other arrays than {path.stem}.json names")
    return arrays


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: the file is missing") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _described(array: NDArray[Any]) -> dict[str, Any]:
    return {"dtype": str(array.dtype), "shape": list(array.shape)}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
