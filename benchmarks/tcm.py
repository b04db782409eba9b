"""What the threshold-consistent margin term costs, as ratios measured in one run.

    .venv/bin/python -m benchmarks.tcm           # about 2 minutes; 10 GB for the library's part

Times are seconds of the processor on one thread, which other processes hardly move, the best of
several alternating rounds. The share of a step is the term's own time (similarities, loss and
gradient, from embeddings back to embeddings) over that of the whole step without it; the
difference of two whole steps, printed beside, says the same under more noise than it is large.
Memory is what torch's allocator holds at its most (``benchmarks/live_memory.py``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pytorch_metric_learning.losses import ThresholdConsistentMarginLoss
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.live_memory import peak_bytes
from pipeline.config import load_recipe
from pipeline.losses.config import LossConfig, TcmConfig
from pipeline.losses.pairs import Marks
from pipeline.losses.tcm import tcm_of_marks
from pipeline.losses.total import TrainingLoss, training_loss
from pipeline.models.registry import build_model

MARGINS = TcmConfig()
BYTES_FOR_THE_LIBRARY = 14 * 2**30
"""Free memory below which its part at B = 1,024 is left out: it holds 10 GiB of pairs."""


def best(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Seconds of the processor for each call: the best of ``rounds`` in which they take turns."""
    seconds = [math.inf] * len(calls)
    for _ in range(rounds):
        for place, call in enumerate(calls):
            start = time.process_time()
            call()
            seconds[place] = min(seconds[place], time.process_time() - start)
    return seconds


def directions(rows: int, dimension: int) -> Tensor:
    """Unit rows in classes of 4 that both margins find hard pairs among."""
    centres = torch.randn(rows // 4, dimension).repeat_interleave(4, 0)
    spread = centres + 0.7 * torch.randn(rows, dimension) + 0.8 * torch.randn(dimension)
    return functional.normalize(spread, dim=1).requires_grad_()


def labels_of(rows: int) -> Tensor:
    """4 items of each class."""
    return torch.arange(rows) // 4


def term(embeddings: Tensor) -> None:
    """TCM alone, from embeddings back to embeddings."""
    marks = Marks.of_batch(labels_of(len(embeddings)), None)
    of_similarities(embeddings @ embeddings.T, marks).backward()


def of_similarities(similarity: Tensor, marks: Marks) -> Tensor:
    """TCM of a batch compared with itself."""
    return tcm_of_marks(
        similarity, marks, marks,
        positive_margin=MARGINS.positive_margin, negative_margin=MARGINS.negative_margin,
    )  # fmt: skip


def step_of(network: nn.Module, pixels: Tensor, loss: TrainingLoss) -> Callable[[], None]:
    """One step of AdamW on ``pixels``."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        loss(network(pixels), labels_of(len(pixels))).backward()
        optimizer.step()

    return step


class ResNet50(nn.Module):
    """ResNet-50 of transformers with random weights and a head of 512."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        from transformers import ResNetConfig, ResNetModel

        self.body = ResNetModel(ResNetConfig())
        self.head = nn.Linear(2048, 512)

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 512) unit rows of (b, 3, S, S) pixels."""
        return functional.normalize(self.head(self.body(pixels).pooler_output.flatten(1)), dim=1)


def share(name: str, network: nn.Module, pixels: Tensor, *, target: float, rounds: int) -> None:
    """Print what TCM adds to a step of ``network``."""
    network.train()
    rows, dimension = network(pixels).shape
    plain, both = (
        step_of(network, pixels, training_loss(
            LossConfig(tcm=tcm), classes=rows // 4, dimension=dimension
        ))
        for tcm in (None, MARGINS)
    )  # fmt: skip
    embeddings = directions(rows, dimension)
    base, whole, alone = best([plain, both, lambda: term(embeddings)], rounds)
    print(
        f"{name}, batch {rows}: step {base * 1e3:,.0f} ms, TCM {alone * 1e3:.2f} ms: adds "
        f"{alone / base:.2%} (whole steps: {whole / base - 1:+.1%}); target {target:.0%} at most."
    )


def against_the_library(rows: int, rounds: int) -> None:
    """Print time and memory of TCM alone beside the library's own, from d = 512 embeddings."""
    embeddings, labels = directions(rows, 512), labels_of(rows)
    library, marks = ThresholdConsistentMarginLoss(), Marks.of_batch(labels, None)
    similarity = (embeddings @ embeddings.T).detach().requires_grad_()
    matrix = 4 * rows * rows

    def theirs() -> None:
        library(embeddings, labels).backward()

    def ours_of_similarities() -> None:
        similarity.grad = None
        of_similarities(similarity, marks).backward()

    above = peak_bytes(ours_of_similarities) / matrix
    alone = best([ours_of_similarities], 20)[0]
    line = (
        f"TCM alone, B = {rows:,}: {alone * 1e3:.1f} ms and {above:.2f} B x B float32 matrices "
        "above the similarities, gradient included (target 2 above both)"
    )
    if rows > 512 and free_memory() < BYTES_FOR_THE_LIBRARY:
        print(f"{line}; the library's left out, {free_memory() / 2**30:.0f} GiB are free.")
        return
    memory = [peak_bytes(call) for call in (lambda: term(embeddings), theirs)]
    times = best([lambda: term(embeddings), theirs], rounds)
    print(
        f"{line}. From embeddings {times[0] * 1e3:,.1f} ms and {memory[0] / 2**20:,.0f} MiB, the "
        f"library {times[1] * 1e3:,.0f} ms and {memory[1] / 2**20:,.0f} MiB: "
        f"{times[1] / times[0]:,.0f} times faster, {memory[1] / memory[0]:,.0f} times smaller; "
        "target above 1 each."
    )


def free_memory() -> int:
    """Bytes that the machine can still give; 0 where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("One thread, time of the processor; the best of alternating rounds.")
    recipe = load_recipe(Path(__file__).parent.parent / "jobs" / "recipes" / "emoji.toml")
    batch, size = recipe.train.classes_per_batch * 4, recipe.model.image_size
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)
    share("Demo CNN at 48 px", build_model(recipe.model, kind="image"), pixels,
          target=0.05, rounds=12)  # fmt: skip
    share("ResNet-50 at 64 px", ResNet50(), torch.randn(64, 3, 64, 64), target=0.02, rounds=4)
    for rows, rounds in ((256, 5), (1024, 2)):
        against_the_library(rows, rounds)


if __name__ == "__main__":
    main()
