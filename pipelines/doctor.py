"""`extpose doctor`: what is there, what is missing, and the command that brings it."""

import importlib.metadata
import os
import platform
import shutil
import sys

from extpose import __version__
from extpose.assets import ASSETS, cache_dir, fetch, status
from extpose.errors import AssetError
from extpose.recipes import HUGE

PACKAGES = {
    "torch": ("the network", "pip install extpose"),
    "av": ("reading and writing video", "pip install extpose"),
    "onnxruntime": ("the 2D detectors", "pip install extpose"),
    "numba": ("drawing meshes", "pip install extpose"),
    "ray": ("preprocess, synth, train, submit", "pip install 'extpose[cluster]'"),
    "deepspeed": ("training with ZeRO", "pip install 'extpose[cluster]'"),
    "webdataset": ("streaming shards", "pip install 'extpose[cluster]'"),
    "tensorboard": ("training curves besides log.csv", "pip install 'extpose[cluster]'"),
    "ai-edge-litert": ("hands, and BlazePose", "pip install 'extpose[hands]'"),
    "transformers": ("ViTPose (optional)", "pip install 'extpose[detectors]'"),
    "rtmlib": ("RTMPose (optional)", "pip install --no-deps rtmlib"),
    "flash-attn": ("attention on CUDA (optional)", "pip install 'extpose[flash]'"),
    "smplx": ("comparing with another body layer (optional)", "pip install 'extpose[smplx]'"),
}
REQUIRED = ("torch", "av", "onnxruntime", "numba")


def doctor(*, fetch_missing: bool = False) -> int:
    """Print the state of this machine; 0 when the library itself can work, else 1."""
    _print_machine()
    missing = _print_packages()
    complete = _print_assets(fetch_missing=fetch_missing)
    if missing:
        _line(f"\nExtPose cannot run: {', '.join(missing)} missing.")
    elif not complete:
        _line("\nExtPose can run; what is missing above is fetched when it is first needed.")
    else:
        _line("\nAll is there.")
    return 1 if missing else 0


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")


def _print_machine() -> None:
    cache = cache_dir().absolute()
    free = shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free
    _line(f"extpose {__version__}, Python {platform.python_version()}, {platform.platform()}")
    _line(f"{os.cpu_count()} CPU cores, {free / 2**30:.0f} GiB free on disk, accelerator: {_gpu()}")
    for backend in _attention():
        _line(f"attention of ViT-H: {backend}")


def _gpu() -> str:
    try:
        import torch
    except ModuleNotFoundError:
        return "unknown (no torch)"
    if not torch.cuda.is_available():
        return "none"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names)


def _attention() -> list[str]:
    """The kernel that the network uses here, in fp32 and in bf16."""
    try:
        import torch
    except ModuleNotFoundError:
        return []
    from extpose.model.kernels import describe_backend

    device, head_dim = "cuda" if torch.cuda.is_available() else "cpu", HUGE.width // HUGE.num_heads
    return [describe_backend(device, dtype, head_dim) for dtype in (torch.float32, torch.bfloat16)]


def _print_packages() -> list[str]:
    """Print a line a package; returns the required ones that are missing."""
    _line("\nPackages")
    missing = []
    for name, (purpose, command) in PACKAGES.items():
        try:
            version = importlib.metadata.version(name)
            _line(f"  ok       {name:<15} {version:<16} {purpose}")
        except importlib.metadata.PackageNotFoundError:
            _line(f"  missing  {name:<15} {'':<16} {purpose}: {command}")
            missing += [name] if name in REQUIRED else []
    return missing


def _print_assets(*, fetch_missing: bool) -> bool:
    """Print a line an asset, fetching what is missing if asked; True when all are there."""
    _line(f"\nFiles in {cache_dir()}")
    complete = True
    for asset in status():
        present, note = asset.present, ""
        if not present and fetch_missing:
            try:
                fetch(asset.name)
                present = True
            except AssetError as error:
                note = f" ({error})"
        complete &= present
        state = "ok     " if present else "missing"
        command = "" if present else f": extpose doctor --fetch (from {asset.command}){note}"
        size = sum(member.size for member in ASSETS[asset.name].members) / 1e6
        purpose = ASSETS[asset.name].purpose
        _line(f"  {state}  {asset.name:<18} {size:6.1f} MB  {purpose}{command}")
    return complete
