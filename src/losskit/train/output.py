"""The folder of a training: every file in it is at any moment either the old one or the new one, whole."""

import io
import json
import pickle
import platform
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit.errors import DataError, LosskitValueError, OutputError
from losskit.files import replace_file
from losskit.train.options import TrainOptions

__all__ = ["Checkpoint", "OutputFolder", "Row"]

FORMAT = "losskit train 2"

# torch.load has no exception of its own: each damage surfaces as another of these.
DAMAGED_CHECKPOINT = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)

# A line of metrics.jsonl.
Row = dict[str, int | float]


class Checkpoint(NamedTuple):
    """All that a training needs to go on after its last finished epoch."""

    network: dict[str, Tensor]
    optimizer: dict[str, Any]
    rows: list[Row]
    # The loss of every step so far, in float64, which holds float32 exactly.
    step_losses: Tensor
    environment: dict[str, str | int]
    # Of a text: the token of each number, and what tells it from another text; else nothing.
    vocabulary: list[str]
    digest: str


class OutputFolder:
    """Files of one training. checkpoint.pt is written first; all others can be made again from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.pt"
        self.model = path / "model.pt"
        self.metrics = path / "metrics.jsonl"
        self.curve = path / "curve.png"
        self.vocabulary = path / "vocabulary.txt"
        self._results = (self.model, self.metrics, self.curve, self.vocabulary)

    def prepare(self, overwrite: bool) -> None:
        """Make the folder, prove that it can be written to, and refuse one whose files are not a training's.

        Nothing in it is removed, not even with `overwrite`: files are replaced when the first epoch is finished.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Left behind by a run that was killed while it wrote.
            for name in (self.checkpoint, *self._results):
                for partial in self.path.glob(f".{name.name}.*.partial"):
                    partial.unlink()
        except OSError as error:
            raise self._unwritable(error) from error
        self._replace(self.path / ".probe", b"")
        (self.path / ".probe").unlink()
        if overwrite or self.checkpoint.exists():
            return
        others = [file.name for file in self._results if file.exists()]
        if others:
            raise OutputError(
                f"train: --out {self.path} holds {', '.join(others)} but no checkpoint.pt, so it is no training to "
                "resume; name another folder, or pass --overwrite to replace the files."
            )

    def save(self, options: TrainOptions, checkpoint: Checkpoint) -> None:
        """Replace checkpoint.pt, then the files that follow from it."""
        content = {"format": FORMAT, "options": options.fixed(), **checkpoint._asdict()}
        self._replace(self.checkpoint, _saved(content))
        self.write_results(checkpoint)

    def write_results(self, checkpoint: Checkpoint) -> None:
        lines = [json.dumps(row) + "\n" for row in checkpoint.rows]
        self._replace(self.metrics, "".join(lines).encode())
        self._replace(self.model, _saved(checkpoint.network))
        if checkpoint.vocabulary:
            self._replace(self.vocabulary, "".join(f"{token}\n" for token in checkpoint.vocabulary).encode())

    def write_curve(self, png: bytes) -> None:
        self._replace(self.curve, png)

    def load(self, options: TrainOptions, digest: str = "") -> Checkpoint | None:
        """The training to go on with, or None to start one. `digest` is that of the text there is to learn.

        Raises:
            DataError: checkpoint.pt is damaged, or no checkpoint of a training, or of one on another text.
            LosskitValueError: it was written under other options.
        """
        if options.overwrite or not self.checkpoint.exists():
            return None
        content = self._read_checkpoint()
        _check_options(self.path, content["options"], options)
        checkpoint = Checkpoint(*(content[name] for name in Checkpoint._fields))
        if checkpoint.digest != digest:
            raise DataError(
                f"train: {self.path} holds a training on the text of another Python than {platform.python_version()}; "
                "resume it with that one, name another --out, or pass --overwrite to start anew."
            )
        if len(checkpoint.rows) > options.epochs:
            raise LosskitValueError(
                f"train: {self.path} holds {len(checkpoint.rows)} finished epochs, --epochs is {options.epochs}; "
                f"pass --epochs {len(checkpoint.rows)} or more, name another --out, or pass --overwrite to start anew."
            )
        return checkpoint

    def _read_checkpoint(self) -> dict[str, Any]:
        try:
            content = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except DAMAGED_CHECKPOINT as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"train: {self.checkpoint} cannot be read as a checkpoint ({reason}); "
                "it is damaged: name another --out, or pass --overwrite to start anew."
            ) from error
        expected = {"format", "options", *Checkpoint._fields}
        if not isinstance(content, dict) or content.get("format") != FORMAT or not expected <= content.keys():
            raise DataError(
                f"train: {self.checkpoint} is no checkpoint of this version of losskit train; "
                "name another --out, or pass --overwrite to start anew."
            )
        return content

    def _replace(self, path: Path, content: bytes) -> None:
        try:
            replace_file(path, content)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"train: cannot write to --out {self.path} ({error.strerror or error}); name a folder that can be written."
        )


def _saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _check_options(path: Path, saved: dict[str, Any], options: TrainOptions) -> None:
    given = options.fixed()
    differences = [
        f"--{name.replace('_', '-')} ({_shown(saved.get(name))} there, {_shown(value)} now)"
        for name, value in given.items()
        if saved.get(name) != value
    ]
    if differences:
        raise LosskitValueError(
            f"train: {path} holds a training with other options: {', '.join(differences)}; "
            "give the same options to resume it, name another --out, or pass --overwrite to start anew."
        )


def _shown(value: object) -> str:
    return "unset" if value is None else str(value)
