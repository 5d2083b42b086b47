"""What the network costs: `python tests/benchmarks/bench_network.py [--device cuda] [--quick]`.

Four tables, one function each: union attention against a dense mask; ViT-H per frame against its
arithmetic and against a plain reading of HMR2.0's backbone; frames a second of the small recipes;
a training step of ViT-H (on a GPU, or small with --quick).

Times are the best of some repetitions with all cores: wall clock on a GPU; on a CPU the CPU time of
all threads divided by their number, which other processes on the machine disturb less. Memory: each
attention row is a process of its own, and what is shown is how far its resident memory rose above
inputs and imports (VmHWM; on a GPU, the peak of PyTorch's allocator). FLOPs count 2 for a
multiply-add, products only.

Axes    b clips   s streams   t frames   n tokens per frame and stream   heads   c head width
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait must not count as busy

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from extpose.config import ModelConfig
from extpose.model.attention import attend
from extpose.model.extpose import ExtPose
from extpose.model.kernels import describe_backend
from extpose.model.vit import ViT, token_grid
from extpose.recipes import BASE, HUGE, SMALL, TINY
from extpose.training.engine import checkpoint_blocks

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
EXPLICIT_COPIES = 6
"""Score matrices that the explicit softmax holds at once in the backward pass, at most."""
CPU_BF16_BLOCKS = 4
"""Without bf16 arithmetic in the CPU the whole network takes minutes; blocks are alike."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured, where."""

    device: str
    quick: bool
    blocks: int | None
    repeats: int

    @property
    def huge(self) -> ModelConfig:
        """ViT-H, or a stand-in of a second."""
        return TINY if self.quick else HUGE


def now(device: str) -> float:
    """Seconds, after the GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def best_seconds(function: Callable[[], object], options: Options, repeats: int = 0) -> float:
    """Of the fastest run; the first on a GPU is not counted."""
    seconds = []
    for _ in range((repeats or options.repeats) + (options.device == "cuda")):
        start = now(options.device)
        function()
        seconds.append(now(options.device) - start)
    return min(seconds[options.device == "cuda" :])


def resident_mib(key: str) -> float:
    """`VmRSS`, now, or `VmHWM`, the peak, of this process."""
    text = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{key}:\s+(\d+) kB", text)[0]) / 1024


def dense_mask(q: Tensor) -> Tensor:
    """Who sees whom in a union, as one matrix over all tokens."""
    s, t, n = q.shape[1:4]
    stream = torch.arange(s, device=q.device).repeat_interleave(t * n)
    frame = torch.arange(t, device=q.device).repeat_interleave(n).repeat(s)
    return (stream[:, None] == stream) | (frame[:, None] == frame)


def masked(q: Tensor, k: Tensor, v: Tensor, *, explicit: bool = False) -> Tensor:
    """Attention over all tokens with a mask: PyTorch's fused one, or scores and softmax."""
    b, s, t, n, heads, c = q.shape
    mask = dense_mask(q)
    q, k, v = (x.permute(0, 4, 1, 2, 3, 5).reshape(b, heads, s * t * n, c) for x in (q, k, v))
    if explicit:
        out = (q * c**-0.5 @ k.mT).masked_fill_(~mask, -torch.inf).softmax(-1) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.reshape(b, heads, s, t, n, c).permute(0, 2, 3, 4, 1, 5)


ATTENTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "union": lambda q, k, v: attend(q, k, v, scope="union"),
    "fused mask": masked,
    "explicit mask": lambda q, k, v: masked(q, k, v, explicit=True),
}


def attention_row(kind: str, shape: list[int], options: Options) -> dict[str, float]:
    """Seconds of forward and backward and MiB of one kind of attention, in this process."""
    packed = torch.randn(*shape[:4], 3, *shape[4:], device=options.device, requires_grad=True)
    gradient = torch.randn(shape, device=options.device)
    before, function = resident_mib("VmRSS"), ATTENTIONS[kind]
    forward, backward = [], []
    for _ in range(options.repeats + (options.device == "cuda")):
        start = now(options.device)
        out = function(*packed.unbind(4))
        middle = now(options.device)
        torch.autograd.grad(out, packed, gradient)
        forward.append(middle - start)
        backward.append(now(options.device) - middle)
    rise = resident_mib("VmHWM") - before
    if options.device == "cuda":
        rise = torch.cuda.max_memory_allocated() / 2**20
    return {"forward": min(forward), "backward": min(backward), "mib": rise}


def print_attention_table(options: Options) -> None:
    """Union against dense masks; `ratio` is theirs divided by the union's."""
    frames, n, heads = ([2], 48, 2) if options.quick else ([1, 8, 16, 32], 192, 16)
    print(f"\nUnion attention, fp32, b=1, n={n}, {heads} heads of 80 (arithmetic: see `FLOPs`)")
    print(f"{'frames':>6} {'kind':<14}{'forward ms':>11}{'ratio':>7}{'backward ms':>12}{'ratio':>7}"
          f"{'peak MiB':>10}{'FLOPs':>7}")  # fmt: skip
    for t in frames:
        shape = [1, 2, t, n, heads, 80]
        base: dict[str, float] = {}
        for kind in ATTENTIONS:
            if kind == "explicit mask" and not fits(4 * EXPLICIT_COPIES * heads * (2 * t * n) ** 2):
                print(f"{t:>6} {kind:<14}{'more memory than there is':>30}")
                continue
            row = measure_alone(kind, shape, options)
            base = base or row
            flops = 1.0 if kind == "union" else 2 * t / (t + 1)
            ratios = [row[key] / base[key] for key in ("forward", "backward")]
            print(f"{t:>6} {kind:<14}{1e3 * row['forward']:>11.1f}{ratios[0]:>7.2f}"
                  f"{1e3 * row['backward']:>12.1f}{ratios[1]:>7.2f}{row['mib']:>10.0f}"
                  f"{flops:>7.2f}", flush=True)  # fmt: skip


def fits(num_bytes: int) -> bool:
    """Whether the machine has that much memory left."""
    available = re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[0]
    return num_bytes < 1024 * int(available)


def measure_alone(kind: str, shape: list[int], options: Options) -> dict[str, float]:
    """`attention_row` in a fresh process."""
    command = [sys.executable, __file__, "--device", options.device, "--repeats",
               str(options.repeats), "--row", json.dumps([kind, shape])]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row: dict[str, float] = json.loads(done.stdout)
    return row


def backbone_flops(config: ModelConfig, *, s: int, t: int) -> float:
    """Of one clip: patches, linear maps, and attention within a union."""
    rows, columns = token_grid(config)
    n, d = rows * columns, config.width
    linear = 2 * d * d * (4 + 2 * config.mlp_ratio)
    attention = 4 * d * n * (t + s - 1)
    return s * t * n * (config.depth * (linear + attention) + 6 * config.patch_size**2 * d)


def plain_backbone(vit: ViT, images: Tensor) -> Tensor:
    """A plain reading of HMR2.0's backbone on the same weights: one image, explicit softmax."""
    x = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
    x = x + vit.pos_embed[:, 1:] + vit.pos_embed[:, :1]
    for block in vit.blocks:
        b, n, d = x.shape
        heads = block.attn.num_heads
        qkv = block.attn.qkv(block.norm1(x)).reshape(b, n, 3, heads, d // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q * (d // heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        x = x + block.attn.proj((weights @ v).transpose(1, 2).reshape(b, n, d))
        x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
    return vit.last_norm(x)


@torch.inference_mode()
def print_backbone_table(options: Options) -> None:
    """Milliseconds a frame, and the ratio to one image beside the ratio of the arithmetic."""
    print(f"\nBackbone of ViT-H, one clip, per frame (width {options.huge.width})")
    print(f"{'precision':<10}{'input':<22}{'ms':>9}{'ratio':>7}{'FLOPs':>7}{'GFLOP/s':>9}  blocks")
    for precision, dtype in DTYPES.items():
        whole = options.huge.depth
        slow = precision == "bf16" and options.device == "cpu" and not options.quick
        blocks = options.blocks or (CPU_BF16_BLOCKS if slow else whole)
        with torch.device(options.device):
            vit = ViT(replace(options.huge, depth=blocks)).eval().to(dtype)
            side = options.huge.image_size
            many = options.huge.max_frames
            images = torch.randn(1, 2, many, 3, side, side * 3 // 4, dtype=dtype)
        one = images[:, :1, :1]
        difference = (vit(one)[0, 0] - plain_backbone(vit, one[0, 0])).abs().max().item()
        inputs: dict[str, tuple[Callable[[], object], int, int]] = {
            "image": (lambda vit=vit, x=one: vit(x), 1, 1),
            "image, plain reading": (lambda vit=vit, x=one[0, 0]: plain_backbone(vit, x), 1, 1),
            "image + skeleton": (lambda vit=vit, x=images[:, :, :1]: vit(x), 2, 1),
            f"{many} frames of both": (lambda vit=vit, x=images: vit(x), 2, many),
        }
        base, base_flops = 0.0, backbone_flops(options.huge, s=1, t=1)
        for name, (function, s, t) in inputs.items():
            repeats = 1 if t > 1 and not options.quick and options.device == "cpu" else 5
            seconds = best_seconds(function, options, repeats) * whole / blocks / t
            flops, base = backbone_flops(options.huge, s=s, t=t) / t, base or seconds
            print(f"{precision:<10}{name:<22}{1e3 * seconds:>9.1f}{seconds / base:>7.2f}"
                  f"{flops / base_flops:>7.2f}{flops / seconds / 1e9:>9.0f}"
                  f"  {blocks} of {whole}", flush=True)  # fmt: skip
        print(f"{precision:<10}largest difference from the plain reading: {difference:.1e}")


def print_recipe_table(options: Options) -> None:
    """Frames a second of whole networks, fp32: one image, a clip of both streams, training."""
    recipes = {"tiny": TINY} if options.quick else {"tiny": TINY, "small": SMALL, "base": BASE}
    print("\nWhole networks, fp32, frames/s (clips: both streams, b=1)")
    print(f"{'recipe':<8}{'image':>9}{'clip':>9}{'forward + backward':>20}  frames of a clip")
    for name, config in recipes.items():
        with torch.device(options.device):
            model = ExtPose(config).eval()
            shape = (1, config.max_frames, 3, config.image_size, config.image_size)
            rgb, skeleton = torch.randn(2, *shape)
        with torch.inference_mode():
            image = best_seconds(lambda m=model, x=rgb[:, :1]: m(x), options, 5)
            clip = best_seconds(lambda m=model, x=rgb, y=skeleton: m(x, y), options)
        both = best_seconds(lambda m=model, x=rgb, y=skeleton: loss(m, x, y).backward(), options)
        t = config.max_frames
        print(f"{name:<8}{1 / image:>9.1f}{t / clip:>9.1f}{t / both:>20.1f}  {t}", flush=True)


def loss(model: ExtPose, rgb: Tensor, skeleton: Tensor) -> Tensor:
    """Something that needs every output."""
    prediction = model(rgb, skeleton)
    params = prediction.params
    outputs = (params.global_orient, params.pose, params.betas, prediction.crop_cam)
    return torch.stack([x.float().square().mean() for x in outputs]).sum()


def matrix_rate(device: str, side: int) -> float:
    """FLOP/s of a bf16 matrix product."""
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    options = Options(device=device, quick=False, blocks=None, repeats=10)
    return 2 * side**3 / best_seconds(lambda: a @ b, options)


def print_training_table(options: Options) -> None:
    """A whole step in bf16, and the part of the matrix rate that its arithmetic makes of it."""
    if options.device == "cpu" and not options.quick:
        return
    config = options.huge
    with torch.device(options.device):
        model = ExtPose(config).train()
        shape = (1, config.max_frames, 3, config.image_size, config.image_size)
        rgb, skeleton = torch.randn(2, *shape)
    checkpoint_blocks(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(options.device, torch.bfloat16):
            total = loss(model, rgb, skeleton)
        total.backward()
        optimizer.step()

    seconds = best_seconds(step, options)
    rate = matrix_rate(options.device, 256 if options.quick else 8192)
    flops = 3 * backbone_flops(config, s=2, t=config.max_frames)
    print(f"\nTraining step, {config.max_frames} frames of both streams, bf16, recomputed blocks")
    print(f"{'ms':>9}{'frames/s':>10}{'TFLOP/s':>9}{'matrix rate':>13}{'utilisation':>13}")
    print(f"{1e3 * seconds:>9.1f}{config.max_frames / seconds:>10.1f}{flops / seconds / 1e12:>9.2f}"
          f"{rate / 1e12:>13.2f}{flops / seconds / rate:>13.0%}")  # fmt: skip


TABLES: dict[str, Callable[[Options], None]] = {
    "attention": print_attention_table,
    "backbone": print_backbone_table,
    "recipes": print_recipe_table,
    "training": print_training_table,
}


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes: do the tables work?")
    parser.add_argument("--blocks", type=int, help="measure so many blocks of ViT-H and scale")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    row = arguments.row
    names = Options.__dataclass_fields__
    options = Options(**{name: getattr(arguments, name) for name in names})
    torch.manual_seed(0)
    if row is not None:
        print(json.dumps(attention_row(*json.loads(row), options)))
        return
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for dtype in DTYPES.values():
        print(describe_backend(options.device, dtype, HUGE.width // HUGE.num_heads))
    for table in arguments.tables:
        TABLES[table](options)


if __name__ == "__main__":
    main()
