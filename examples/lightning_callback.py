"""A classifier of handwritten digits is trained by Lightning, and its curvature is recorded on the way.

Needs `pip install "eigenspan[lightning]"`, no network, and less than a minute: `python examples/lightning_callback.py`
"""

import argparse
from pathlib import Path

import lightning
import torch
from torch import nn

from eigenspan.studies import DataRequest, read_results
from eigenspan.studies.lightning import CurvatureCallback
from eigenspan.studies.problems import find_problem

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=200, help="of training")
parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="folder of the records")
options = parser.parse_args()


class Digits(lightning.LightningModule):
    """A network with dropout and batch normalisation, which records are taken without."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(256, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        images, digits = batch
        return nn.functional.cross_entropy(self(images), digits)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


lightning.seed_everything(0)
problem = find_problem("mnist16")  # the digits that come with eigenspan
data = problem.load(problem.resolved(DataRequest()))
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data.train), batch_size=64, shuffle=True)

curvature = CurvatureCallback(
    nn.CrossEntropyLoss(), data.hessian["train"], options.out, every=max(1, options.steps // 4), k=10, name="digits"
)
lightning.Trainer(
    max_steps=options.steps,
    accelerator="cpu",
    callbacks=[curvature],
    logger=False,
    enable_checkpointing=False,
    enable_model_summary=False,
    enable_progress_bar=False,
).fit(Digits(), loader)

for record in read_results(options.out)["records"]:
    values, overlap, chance = record["eigenvalues"], record["overlap"][-1], record["chance_stratified"]["mean"][-1]
    print(
        f"step {record['step']:3}: loss {record['loss']:.3f}, eigenvalues {values[0]:.3g} … {values[-1]:.3g}, the "
        f"overlap of the 10 largest weights is {overlap / chance:.1f} times stratified chance"
    )
print(f"Report: {options.out / 'report.html'}")
