"""What a rank runs in the tests: trainings with the options given as JSON, and who it is in a file.

    python -m torch.distributed.run --standalone --nproc-per-node 3 rank.py '{"trainings": [{"data": "fake"}]}'

"float64" computes in it, so that nothing but a wrong number is further than rounding from a single process. "timeout"
is in seconds. "command" runs the command line; several trainings share a process group that is there before them.
"""

import json
import os
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from losskit.cli import main
from losskit.train import TrainOptions, ranks, train
from train.small_data import few_images, learn_small_text


def run(request: dict) -> int:
    torch.set_num_threads(1)
    if request.get("float64"):
        torch.set_default_dtype(torch.float64)
    if "timeout" in request:
        ranks.TIMEOUT = timedelta(seconds=request["timeout"])
    Path(f"rank-{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    with learn_small_text(), few_images() if request.get("few_images") else nullcontext():
        if "command" in request:
            return main(request["command"])
        distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
        for options in request["trainings"]:
            out = Path(options.pop("out"))
            result = train(TrainOptions(**options, out=out))
            name = result.folder.with_name(f"{result.folder.name}-{os.environ['RANK']}.pt")
            torch.save(result.step_losses, name)
        distributed.destroy_process_group()
        return 0


if __name__ == "__main__":
    sys.exit(run(json.loads(sys.argv[1])))
