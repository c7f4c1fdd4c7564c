"""One training step of ours against `transformers` VisualBERT: `python -m tests.bench.train_step --json FILE`.

Both do forward, backward, clipping to a norm of 1, and AdamW, in float32 with dropout 0.1, on the same pairs. Each has a
process of its own, as it would in life (ours keeps freed memory, `training/memory.py`), and they take turns. Both pass
every token through 12 layers of width 768 with 12 heads (ours: 6 of one modality, 6 unified) and read it by a masked-word
and an image-text head. Ours has 18 layers' parameters against 12. Theirs is what its documentation shows:
`model(**batch).loss.backward()`, `clip_grad_norm_`, `torch.optim.AdamW(model.parameters())`. `their_best` is the same with
`fused=True` and with our memory setting, for who asks what our settings alone would give it.

    ratio_b8, ratio_b32   pairs a second, ours over theirs, at 20 word pieces and 36 regions
    ratio_mixed           captions of 8-40 pieces, 10-60 regions, batch 32, theirs padded as it must be
    mfu_b32               our products a second over `gemm_gflops`, the best large one of this run, torch's or oneDNN's
    mfu_b32_torch         the same over `gemm_gflops_torch`, the best of torch's own alone
    memory_*              peak resident gigabytes at batch 32, each in a process of its own, with 12 layers' parameters each
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import VisualBertConfig, VisualBertForPreTraining

from cmal.model.cmal import build_cmal
from cmal.model.cpu.kernels import ONEDNN_LINEAR, onednn_product
from cmal.model.pretraining import LanguageHead, MatchingHead
from cmal.model.transformer import initialise, rows_at
from cmal.runs.dry_run import count_flops
from cmal.training.memory import keep_freed_memory
from cmal.training.optimizer import build_optimizer, clipped_step, gradient_norm_noted
from tests.bench.timing import seconds_of

WIDTH, HEADS, INNER, FEATURES, VOCABULARY, DROPOUT = 768, 12, 3072, 2048, 30522, 0.1
SPLIT = {"text_layers": 6, "visual_layers": 6, "unified_layers": 6}
EQUAL_PARAMETERS = {"text_layers": 0, "visual_layers": 0, "unified_layers": 12}
CLIP_NORM, LR = 1.0, 1e-5
GEMM_SHAPES = ((2048, 2048, 2048), (4096, 4096, 4096), (1792, 768, 3072))
CASES = ("b8", "b32", "mixed")

Lengths = Sequence[tuple[int, int]]


class OurStep:
    """Our model with the same two heads, one forward."""

    def __init__(self, layers: dict[str, int]):
        torch.manual_seed(0)
        cmal = build_cmal(
            vocabulary=VOCABULARY,
            max_tokens=60,
            region_features=FEATURES,
            width=WIDTH,
            heads=HEADS,
            inner=INNER,
            dropout=DROPOUT,
            **layers,
        )
        words, match = LanguageHead(WIDTH, VOCABULARY), MatchingHead(WIDTH)
        self.model = nn.ModuleDict({"cmal": cmal, "words": initialise(words, WIDTH), "match": initialise(match, WIDTH)})
        self.optimizer = build_optimizer(self.model, lr=LR, weight_decay=0.01, betas=(0.9, 0.98))
        self.while_training = contextlib.ExitStack()  # kept: without it the norm's hooks would go at once
        self.gradient_norm = self.while_training.enter_context(gradient_norm_noted(self.model, is_alone=True))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        cmal, example, position = self.model["cmal"], *batch["masked"]
        states = cmal.encode(*(batch[n] for n in ("token_ids", "token_mask", "features", "boxes_unit", "region_mask")))
        needed_mask = torch.zeros_like(torch.cat([batch["token_mask"], batch["region_mask"]], dim=1))
        needed_mask[:, 0] = needed_mask[example, position] = True
        hidden = cmal.unify(states, needed_mask=needed_mask)
        logits = self.model["words"](rows_at(hidden, example, position), states.words)
        matching = F.binary_cross_entropy_with_logits(self.model["match"](hidden[:, 0]), batch["is_match"].float())
        return F.cross_entropy(logits, batch["labels"]) + matching

    def __call__(self, batch: dict[str, Tensor]) -> None:
        self.loss(batch).backward()
        clipped_step(self.optimizer, self.gradient_norm(), CLIP_NORM)
        self.optimizer.zero_grad(set_to_none=True)


class TheirStep:
    """VisualBERT as its documentation trains it."""

    def __init__(self, fused: bool | None = None):
        torch.manual_seed(0)
        config = VisualBertConfig(vocab_size=VOCABULARY, visual_embedding_dim=FEATURES)
        self.model = VisualBertForPreTraining(config).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR, weight_decay=0.01, fused=fused)

    def __call__(self, batch: dict[str, Tensor]) -> None:
        tokens, (example, position) = batch["token_ids"].shape[1], batch["masked"]
        labels = torch.full((len(batch["token_ids"]), tokens + batch["features"].shape[1]), -100)
        labels[example, position] = batch["labels"]
        self.model(
            input_ids=batch["token_ids"],
            attention_mask=batch["token_mask"].long(),
            visual_embeds=batch["features"],
            visual_attention_mask=batch["region_mask"].long(),
            visual_token_type_ids=torch.ones_like(batch["region_mask"], dtype=torch.long),
            labels=labels,
            sentence_image_labels=batch["is_match"].long(),
        ).loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()


def make_batch(lengths: Lengths, generator: np.random.Generator) -> dict[str, Tensor]:
    """Random pairs of given numbers of pieces and regions, padded, with 15% of the pieces masked."""
    pieces, regions = np.array(lengths).T
    token_mask = torch.from_numpy(np.arange(pieces.max()) < pieces[:, None])
    region_mask = torch.from_numpy(np.arange(regions.max()) < regions[:, None])
    masked = [generator.choice(np.arange(1, count), max(1, round(0.15 * count)), replace=False) for count in pieces]
    example = np.repeat(np.arange(len(masked)), [len(places) for places in masked])
    draw = torch.from_numpy
    return {
        "token_ids": draw(generator.integers(0, VOCABULARY, token_mask.shape)) * token_mask,
        "token_mask": token_mask,
        "features": draw(generator.random((*region_mask.shape, FEATURES), np.float32)) * region_mask[..., None],
        "boxes_unit": draw(generator.random((*region_mask.shape, 7), np.float32)),
        "region_mask": region_mask,
        "masked": draw(np.stack([example, np.concatenate(masked)])),
        "labels": draw(generator.integers(0, VOCABULARY, len(example))),
        "is_match": draw(generator.integers(0, 2, len(pieces)).astype(bool)),
    }


def gemm_gflops(product: Callable[[Tensor, Tensor, Tensor], object]) -> float:
    """Of one turn over the large shapes, the best. product: of (N, I) and (O, I), may write into the (N, O)."""
    rates = []
    for rows, inner, columns in GEMM_SHAPES:
        left, right, out = torch.randn(rows, inner), torch.randn(columns, inner), torch.empty(rows, columns)
        seconds = min(seconds_of(partial(product, left, right, out)) for _ in range(3))
        rates.append(2 * rows * inner * columns / seconds / 1e9)
    return max(rates)


PRODUCTS = {"torch": lambda left, right, out: torch.mm(left, right.t(), out=out)}
if ONEDNN_LINEAR:
    PRODUCTS["onednn"] = lambda left, right, out: onednn_product(left, right)


def make_batches() -> dict[str, dict[str, Tensor]]:
    """The cases, the same in every process."""
    generator = np.random.default_rng(0)
    mixed = np.stack([generator.integers(8, 41, 32), generator.integers(10, 61, 32)], axis=1).tolist()
    cases = {"b8": [(20, 36)] * 8, "b32": [(20, 36)] * 32, "mixed": mixed}
    return {name: make_batch(lengths, generator) for name, lengths in cases.items()}


def serve(who: str, pipe: Connection) -> None:
    """A side's process: for every case asked for, the seconds of one step; "flops" counts those of batch 32."""
    if who != "theirs":
        keep_freed_memory()
    step = OurStep(SPLIT) if who == "ours" else TheirStep(fused=True if who == "their_best" else None)
    batches = make_batches()
    while (asked := pipe.recv()) is not None:
        if asked == "flops":
            with count_flops() as counter:
                step(batches["b32"])
            pipe.send(counter.get_total_flops())
        else:
            pipe.send(seconds_of(lambda: step(batches[asked])))


def start_sides() -> dict[str, Connection]:
    """All sides' processes, waiting to be asked."""
    context, pipes = multiprocessing.get_context("spawn"), {}
    for who in ("ours", "theirs", "their_best"):
        pipes[who], theirs = context.Pipe()
        context.Process(target=serve, args=(who, theirs), daemon=True).start()
    return pipes


def ask(pipe: Connection, what: str) -> float:
    pipe.send(what)
    return pipe.recv()


def compare(repeats: int) -> dict[str, object]:
    """All cases, in turns."""
    pipes = start_sides()
    flops = ask(pipes["ours"], "flops")
    seconds: dict[tuple[str, str], list[float]] = {(who, case): [] for who in pipes for case in CASES}
    gemm: dict[str, list[float]] = {name: [] for name in PRODUCTS}
    for repeat in range(repeats + 1):  # the first turn warms up
        for name, product in PRODUCTS.items():
            gemm[name].append(gemm_gflops(product))
        for case in CASES:
            for who, pipe in pipes.items():
                taken = ask(pipe, case)
                if repeat:
                    seconds[who, case].append(taken)
    for pipe in pipes.values():
        pipe.send(None)
    result: dict[str, object] = {}
    for case in CASES:
        for rival, name in (("theirs", "ratio"), ("their_best", "ratio_their_best")):
            ratios = np.array(seconds[rival, case]) / np.array(seconds["ours", case])
            result[f"{name}_{case}"] = round(float(np.median(ratios)), 3)
            result[f"{name}_{case}_all"] = np.sort(ratios).round(3).tolist()
    rates = flops / np.array(seconds["ours", "b32"]) / 1e9
    result["gflop_b32"] = round(flops / 1e9, 1)
    for name, peak in (("", max(map(max, gemm.values()))), ("_torch", max(gemm["torch"]))):
        result[f"gemm_gflops{name}"] = round(peak, 1)
        result[f"mfu_b32{name}"] = round(float(np.median(rates) / peak), 3)
        result[f"mfu_b32{name}_best"] = round(max(rates) / peak, 3)
    result["seconds"] = {f"{who} {case}": [round(s, 3) for s in all_s] for (who, case), all_s in seconds.items()}
    return result


def peak_gb(who: str, answers: multiprocessing.Queue) -> None:
    """In a process of its own: the most resident memory of three steps at batch 32."""
    if who == "ours":
        keep_freed_memory()
    step = OurStep(EQUAL_PARAMETERS) if who == "ours" else TheirStep()
    batch = make_batch([(20, 36)] * 32, np.random.default_rng(0))
    for _ in range(3):
        step(batch)
    parameters = sum(p.numel() for p in step.model.parameters())
    answers.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, parameters))


def memory() -> dict[str, float]:
    """Gigabytes of both, and how many million parameters they have."""
    context = multiprocessing.get_context("spawn")
    result = {}
    for who in ("ours", "theirs"):
        answers = context.Queue()
        process = context.Process(target=peak_gb, args=(who, answers))
        process.start()
        gigabytes, parameters = answers.get()
        process.join()
        result |= {
            f"memory_{who}_gb": round(gigabytes, 2),
            f"memory_{who}_million_parameters": round(parameters / 1e6, 1),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    result = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}
    result |= memory() | compare(options.repeats)
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
