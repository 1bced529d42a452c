"""What a Hessian product of ResNet-18 on ImageNet-sized images takes, and how long a run of thousands would.

Run `python benchmarks/imagenet_product.py [--images 5000] [--size 224] [--columns 1 8] [--tf32] [--channels-last]
[--autotune] [--memory-budget GIB]`. Images are random: the time of a product does not depend on them. The network is
torchvision's, 11,689,512 parameters, in evaluation mode. Published for 5,000 images on an A100 (arXiv 2504.14701): 106
to 198 s a product, and 3,000 products for a decomposition.
"""

from __future__ import annotations

import argparse
import time

import torch
from torchvision.models import resnet18

import eigenspan as es
from eigenspan.linops.basic import synchronise

PRODUCTS = 3000  # of the published decomposition


def main() -> None:
    """Prints one line for each width of block."""
    options = _options()
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = resnet18().eval().to(device)
    images = torch.randn(options.images, 3, options.size, options.size, device=device)
    torch.backends.cudnn.benchmark = options.autotune
    if options.channels_last:
        model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (options.images,), device=device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    precision = "TF32" if options.tf32 else "float32"
    print(f"{name}, torch {torch.__version__}, {options.images} images of 3x{options.size}x{options.size}, {precision}")
    chosen = ("channels_last", "autotune", "memory_budget", "engine")
    print(", ".join(f"{name} {value}" for name, value in vars(options).items() if name in chosen and value))
    for columns in options.columns:
        H = es.Hessian(
            model,
            torch.nn.CrossEntropyLoss(),
            (images, labels),
            tf32=options.tf32,
            engine=options.engine,
            memory_budget=None if options.memory_budget is None else int(options.memory_budget * 2**30),
        )
        X = torch.randn(columns, H.shape[0], device=device).mT
        began = time.perf_counter()
        plan = H.plan(columns)
        H @ X
        synchronise(device)
        first = time.perf_counter() - began
        seconds = min(timed(H, X, device) for _ in range(options.repetitions)) / columns
        print(
            f"{columns} columns: {seconds:.3f} s a product, {PRODUCTS * seconds / 3600:.2f} h for {PRODUCTS}", end="; "
        )
        print(f"first block with its trial {first:.1f} s; {plan}", flush=True)


def timed(H: es.Hessian, X: torch.Tensor, device: torch.device) -> float:
    """Seconds of one product with a block."""
    began = time.perf_counter()
    H @ X
    synchronise(device)
    return time.perf_counter() - began


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--columns", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--tf32", action="store_true", help="round factors to TF32")
    parser.add_argument("--channels-last", action="store_true", help="in memory, of model and images")
    parser.add_argument("--autotune", action="store_true", help="let cuDNN try its algorithms")
    parser.add_argument("--memory-budget", type=float, help="GiB; by default a quarter of what is free")
    parser.add_argument("--engine", help="linearised, retained or forward; by default what the plan chooses")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
