"""Files that a training left are decomposed afterwards: `study_checkpoints` takes a list of them.

Needs `pip install "eigenspan[studies]"`, no network, and less than a minute: `python examples/checkpoints.py`
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from eigenspan.studies import study_checkpoints, write_report

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300, help="of training")
parser.add_argument("--out", type=Path, default=Path("runs/checkpoints"), help="folder of the study")
options = parser.parse_args()


def network() -> nn.Module:
    """One with buffers, without which its parameters are another function."""
    return nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 3))


# A training of any kind, which writes state dicts: three spirals of points are told apart.
torch.manual_seed(0)
turn, arm = torch.rand(600), torch.arange(600) % 3
angle = 6 * turn + 2.1 * arm + 0.1 * torch.randn(600)
points = turn[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
model, loss, files, losses = network(), nn.CrossEntropyLoss(), {}, {}
optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
folder = options.out.with_name(options.out.name + "-files")
folder.mkdir(parents=True, exist_ok=True)
for step in range(options.steps + 1):
    if step % max(1, options.steps // 3) == 0:
        files[step] = folder / f"{step}.pt"
        torch.save(model.state_dict(), files[step])
        losses[step] = loss(model.eval()(points), arm).item()  # optional: a file with another loss is refused
    optimiser.zero_grad()
    loss(model.train()(points), arm).backward()
    optimiser.step()

results = study_checkpoints(network, loss, (points, arm), files, options.out, k=10, losses=losses)
for record in results["records"]:
    values, matrix = record["eigenvalues"], results["tracking"]["train"]["by_k"]["10"]["eigenspaces"]
    print(
        f"step {record['step']:3}: loss {record['loss']:.3f}, eigenvalues {values[0]:.3g} … {values[-1]:.3g}, "
        f"overlap of the eigenspace with the last one {matrix[results['records'].index(record)][-1]:.2f}"
    )
print(f"Report: {write_report(results, options.out)}")
