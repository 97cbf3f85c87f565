"""Functions run on several ranks: processes of a Gloo group on this machine."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import distributed
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

# A server that has imported this forks a rank in a tenth of a second; a fresh interpreter takes seconds.
_PRELOADED = ["torch", "torch.distributed.fsdp", "torch.distributed.tensor", "pytest", "losskit.distributed"]


def on_ranks(world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What `function(*args)` returns on each rank. It must be a function of a module."""
    _start_server()
    with tempfile.TemporaryDirectory() as folder:
        try:
            start_processes(
                _rank, (world_size, folder, function, args), nprocs=world_size, join=True, start_method="forkserver"
            )
        except (ProcessExitedException, ProcessRaisedException) as error:
            # Torch tells of one rank, which may be one that had lost another.
            told = [path.read_text("utf-8") for path in sorted(Path(folder).glob("*.error"))]
            causes = [text for text in told if "Connection closed by peer" not in text]
            raise AssertionError("\n".join(causes or told) or str(error)) from None
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(world_size)]


def _start_server() -> None:
    from multiprocessing import forkserver

    multiprocessing.set_forkserver_preload(_PRELOADED)
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        forkserver.ensure_running()


def _rank(rank: int, world_size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=Path(folder, "store").as_uri(),
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=60),
    )
    try:
        torch.save(function(*args), Path(folder, f"{rank}.pt"))
    except BaseException:
        Path(folder, f"{rank}.error").write_text(f"rank {rank}: {traceback.format_exc()}", "utf-8")
        raise
    finally:
        distributed.destroy_process_group()
