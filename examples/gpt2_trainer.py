"""A small GPT-2 learns Python's help texts by the Trainer of transformers; the curvature of its last block is recorded.

Needs `pip install "eigenspan[transformers]"`, no network, and less than a minute: `python examples/gpt2_trainer.py`
"""

import argparse
from pathlib import Path
from pydoc_data.topics import topics

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from eigenspan.studies import read_results
from eigenspan.studies.transformers import CurvatureCallback

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=60, help="of training")
parser.add_argument("--out", type=Path, default=Path("runs/gpt2"), help="folder of the records")
options = parser.parse_args()

# Text as its bytes, in rows of 64; the last 8 rows are kept for the Hessian.
text = "".join(topics.values()).encode("ascii", "ignore")[:64_000]
rows = torch.tensor(list(text)).split(64)[:-1]
held_out = torch.stack(rows[-8:])

set_seed(0)
config = GPT2Config(vocab_size=128, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
curvature = CurvatureCallback(
    {"input_ids": held_out, "labels": held_out},  # the loss is the model's own
    options.out,
    every=max(1, options.steps // 3),
    k=10,
    parameters="transformer.h.1",  # of a large model some of it, such as its adapters
    seconds=20,
    split="test",
    name="gpt2",
)
Trainer(
    GPT2LMHeadModel(config),
    TrainingArguments(
        output_dir=str(options.out.with_name(options.out.name + "-trainer")),
        max_steps=options.steps,
        per_device_train_batch_size=32,
        learning_rate=3e-3,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    ),
    train_dataset=[{"input_ids": row, "labels": row} for row in rows[:-8]],
    callbacks=[curvature],
).train()

for record in read_results(options.out)["records"]:
    values, overlap, chance = record["eigenvalues"], record["overlap"][-1], record["chance_stratified"]["mean"][-1]
    print(
        f"step {record['step']:3}: loss {record['loss']:.2f}, eigenvalues {values[0]:.3g} … {values[-1]:.3g}, the "
        f"overlap of the 10 largest weights is {overlap / chance:.1f} times stratified chance"
    )
print(f"Report: {options.out / 'report.html'}")
