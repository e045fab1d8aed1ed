"""Draws what a soak saw: `plot.py samples.json soak.png`. Runs where matplotlib is, beside locust."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

_FIGURES = {"memory": "resident memory, MiB", "descriptors": "open descriptors"}


def draw(samples: dict[str, list[list[float]]], target: Path) -> None:
    figure, axes = plt.subplots(len(_FIGURES), sharex=True, figsize=(11, 8), layout="constrained")
    for axis, (kind, words) in zip(axes, _FIGURES.items(), strict=True):
        for name, values in samples.items():
            if name.endswith(f" {kind}"):
                axis.plot([at / 60 for at, _ in values], [value for _, value in values], label=name.rpartition(" ")[0])
        axis.set_ylabel(words)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, ncols=3)
    axes[-1].set_xlabel("minutes")
    figure.savefig(target, dpi=120)


draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
