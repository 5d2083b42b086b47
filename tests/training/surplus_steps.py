"""One of three workers of a batch of four: `python FILE FOLDER RANK`.

Prints rank, size and sum of ranks in the group that is left, or that it is not in it.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[2]))

from extpose.training.workers import Workers, leave_surplus

if __name__ == "__main__":
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    store = dist.FileStore(str(Path(sys.argv[1]) / "store"), 3)
    dist.init_process_group("gloo", store=store, rank=int(sys.argv[2]), world_size=3)
    device = torch.device("cpu")
    if leave_surplus(4, device):
        workers = Workers(device)
        total = workers.mean(torch.tensor([float(workers.rank)])) * workers.size
        print(workers.rank, workers.size, float(total))
        dist.destroy_process_group()
    else:
        assert not dist.is_initialized()
        print("surplus")
