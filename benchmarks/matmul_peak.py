"""The most a machine does in matrix products: what the training benchmark divides by.

    OMP_NUM_THREADS=2 python benchmarks/matmul_peak.py --dtype float32

times the products a training step consists of, and a square one, and prints one line of JSON with the median GFLOP/s
of each and `peak_gflops`, the highest of them.
"""

import argparse
import json
import statistics
import time

import torch

# A forward product [rows, inner] x [inner, columns], and the two of its backward pass.
_PRODUCTS = {
    "forward": lambda rows, inner, columns: (rows, inner, columns),
    "weight gradient": lambda rows, inner, columns: (inner, rows, columns),
    "input gradient": lambda rows, inner, columns: (rows, columns, inner),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the peak of matrix products.")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=4096, help="tokens of a pack")
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--intermediate-size", type=int, default=1536)
    parser.add_argument("--square", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each product")
    args = parser.parse_args()
    shapes = {f"{args.square} cubed": (args.square,) * 3}
    for kind, product in _PRODUCTS.items():
        for columns in (args.hidden_size, args.intermediate_size):
            name = f"{args.rows} x {args.hidden_size} x {columns}, {kind}"
            shapes[name] = product(args.rows, args.hidden_size, columns)
    dtype = getattr(torch, args.dtype)
    gflops = {name: round(measure(*shape, dtype, args.device, args.seconds), 1) for name, shape in shapes.items()}
    print(json.dumps({"peak_gflops": max(gflops.values()), "gflops": gflops, "threads": torch.get_num_threads()}))


def measure(rows: int, inner: int, columns: int, dtype: torch.dtype, device: str, seconds: float) -> float:
    """Median GFLOP/s of [rows, inner] x [inner, columns] over `seconds`, after a warm-up of a few products."""
    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(inner, columns, device=device).to(dtype)
    out = torch.empty(rows, columns, dtype=dtype, device=device)
    for _ in range(3):
        torch.mm(left, right, out=out)
    taken: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(taken) < 5:
        taken.append(_time_of(left, right, out))
    return 2 * rows * inner * columns / statistics.median(taken) / 1e9


def _time_of(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> float:
    if out.device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    torch.mm(left, right, out=out)
    if out.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
