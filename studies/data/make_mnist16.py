"""Makes the embedded subset from the full set: ``python -m eigenspan.studies.data.make_mnist16 DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from .digits import EMBEDDED, full_digits

TRAIN, TEST = 10_000, 2_000


def main(arguments: list[str] | None = None) -> None:
    """Writes the first 10,000 training and 2,000 test digits, at 16x16, as a compressed archive."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("root", type=Path, help="the folder that holds MNIST/raw")
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="default: %(default)s")
    options = parser.parse_args(arguments)
    digits = full_digits(options.root)
    np.savez_compressed(
        options.out,
        train_images=digits.train_images[:TRAIN].numpy(),
        train_labels=digits.train_labels[:TRAIN].numpy().astype(np.uint8),
        test_images=digits.test_images[:TEST].numpy(),
        test_labels=digits.test_labels[:TEST].numpy().astype(np.uint8),
    )
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
