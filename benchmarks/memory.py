"""Extra peak memory of one forward and backward, each peer in a new process.

The process builds the inputs and runs the peer once on the workload's small shape, which starts the threads and
loads the libraries. `torch.compile` runs on the full shape instead, because another shape would compile anew and
the compiler's own memory is not the loss's. Then everything that this left behind is given back: the gradients,
losskit's pool (`losskit.empty_cache()`) and the C heap (`malloc_trim`). The kernel's high-water mark of resident
memory (VmHWM) is reset by writing 5 to /proc/self/clear_refs, the resident size is read, one step runs, and the
rise of the mark over that size is the figure. It counts everything that was resident at once above the inputs:
gradient, temporaries, page-faulted or pooled. The gradient belongs to it, so that 1.0 times the logits is the least
that a call can reach which keeps its input.

Run as `python -m benchmarks.memory WORKLOAD PEER SEED THREADS`; prints the figure as JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import subprocess
import sys
from pathlib import Path

import torch

import losskit
from benchmarks.peers import COMPILED, make_peer
from benchmarks.workloads import WORKLOADS, Workload

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


class UnavailableError(RuntimeError):
    """The figure cannot be measured here; the message says why."""


def kilobytes(entry: str) -> int:
    found = re.search(rf"^{entry}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise UnavailableError(f"{STATUS} has no {entry}")
    return int(found[1])


def release() -> None:
    gc.collect()
    losskit.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def extra_peak(workload: Workload, peer_name: str, seed: int) -> int:
    """Bytes."""
    problem = workload.build(workload.shape, seed)
    peer = make_peer(problem, peer_name)
    warm = peer if peer_name in COMPILED else make_peer(workload.build(workload.small_shape, seed), peer_name)
    warm.step()
    for leaf in warm.leaves.values():
        leaf.grad = None
    if peer.restore is not None:
        peer.restore()
    release()
    CLEAR_REFS.write_text("5")
    begin = kilobytes("VmRSS")
    kept = peer.step()
    peak = kilobytes("VmHWM")
    del kept
    return (peak - begin) * 1024


def in_new_process(workload: Workload, peer_name: str, seed: int, threads: int) -> int:
    """Bytes. Raises UnavailableError where this system cannot tell."""
    if not CLEAR_REFS.exists():
        raise UnavailableError("peak memory needs Linux's /proc/self/clear_refs")
    command = [sys.executable, "-m", "benchmarks.memory", workload.name, peer_name, str(seed), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise UnavailableError(f"the process that measures memory ended with {done.returncode}: {last}")
    return int(json.loads(done.stdout)["extra_peak_bytes"])


def main(arguments: list[str]) -> None:
    name, peer_name, seed, threads = arguments
    torch.set_num_threads(int(threads))
    (workload,) = (entry for entry in WORKLOADS if isinstance(entry, Workload) and entry.name == name)
    print(json.dumps({"extra_peak_bytes": extra_peak(workload, peer_name, int(seed))}))


if __name__ == "__main__":
    main(sys.argv[1:])
