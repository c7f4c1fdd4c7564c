"""The runs of the comparison: variants of pre-training, shares of the pairs, seeds, and equal budgets for all variants."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

TASKS = {
    "rec": ("testA", "testB"),
    "ve": ("test",),
    "vqa": ("test",),
    "retrieval": ("test",),
}  # task -> splits; its score is the mean over them
SHARES = (0.1, 0.25, 0.5, 1.0)
SEEDS = (0, 1, 2)
CLAIM_SEEDS = (*SEEDS, 3, 4)  # of the runs behind the claims; with three seeds the intervals were 22 and 17 points wide
WITHOUT = "none"  # fine-tuned from random weights
CMAL, CMCL, PLAIN, BOTH = "cmal", "cmcl", "mlm+mrm+itm", "cmal+cmcl"

VARIANTS: dict[str, tuple[str, ...]] = {
    PLAIN: ("objectives.amc=0",),
    CMCL: ("objectives.amc=0", "objectives.itc=1"),
    CMAL: (),
    BOTH: ("objectives.itc=1",),
}
ABLATIONS: dict[str, tuple[str, ...]] = {  # recipe keys that differ from CMAL; all pairs
    "candidates of the group": ("objectives.candidates=batch",),
    "candidates of the example": ("objectives.candidates=example",),
    "unified vectors alone": ("objectives.amc_at=unified",),
    "unified vectors alone, candidates of the group": ("objectives.amc_at=unified", "objectives.candidates=batch"),
    "no hypersphere": ("model.hypersphere=false",),
    "mask, no swap": ("fill.swap=0", "fill.mask=0.9", "fill.keep=0.1"),
    "mask, no swap, 0.4 kept": ("fill.swap=0", "fill.mask=0.6", "fill.keep=0.4"),
    "swap always": ("fill.swap=1", "fill.mask=0", "fill.keep=0"),
    "swap 0.8, mask 0.1": ("fill.swap=0.8", "fill.mask=0.1", "fill.keep=0.1"),
    "object anchors alone": ("anchors.attributes=false",),
    "groups of 16": ("train.micro_batch_size=16",),
    "duplicates not masked": ("prompt.mask_duplicates=false",),
    "no attention across the swap": ("prompt.attend_across_swap=false",),
    "anchor rate 0.25": ("prompt.anchor_rate=0.25",),
    "anchor rate 1": ("prompt.anchor_rate=1",),
    "10% of tags replaced": ("anchors.tag_noise=0.1",),
    "25% of tags replaced": ("anchors.tag_noise=0.25",),
    "50% of tags replaced": ("anchors.tag_noise=0.5",),
}
LEADS = ("no hypersphere",)  # ablations above CMAL with the first seed; measured with all seeds
HALF_RATE, TWICE_THE_RATE = "optimizer.lr=0.0015", "optimizer.lr=0.006"
TUNING: dict[str, tuple[str, ...]] = {  # the same grid for every variant, on a seed that is not reported
    "mlm+mrm+itm, tuning": VARIANTS[PLAIN],
    "mlm+mrm+itm, half the rate": (*VARIANTS[PLAIN], HALF_RATE),
    "mlm+mrm+itm, twice the rate": (*VARIANTS[PLAIN], TWICE_THE_RATE),
    "cmcl, tuning": VARIANTS[CMCL],
    "cmcl, half the rate": (*VARIANTS[CMCL], HALF_RATE),
    "cmcl, twice the rate": (*VARIANTS[CMCL], TWICE_THE_RATE),
    "cmcl, weight 0.3": ("objectives.amc=0", "objectives.itc=0.3"),
    "cmcl, weight 3": ("objectives.amc=0", "objectives.itc=3"),
    "cmal, tuning": VARIANTS[CMAL],
    "cmal, half the rate": (*VARIANTS[CMAL], HALF_RATE),
    "cmal, twice the rate": (*VARIANTS[CMAL], TWICE_THE_RATE),
    "cmal, weight 0.3": ("objectives.amc=0.3",),
    "cmal, weight 3": ("objectives.amc=3",),
}
TUNING_SEED = 7


@dataclass(frozen=True)
class Budget:
    """Length of the trainings, equal for every variant.

    Attributes:
        pretrain_steps: optimizer steps of the pre-training.
        full_steps, full_rate: optimizer steps and peak learning rate of the fine-tuning on all records.
        few_records, few_steps: training records and optimizer steps of the few-shot scores; 0 steps = no such scores.
        tasks: keys of TASKS that are fine-tuned and scored.
    """

    pretrain_steps: int = 600
    full_steps: int = 150
    full_rate: float = 1.0e-3
    few_records: int = 500
    few_steps: int = 60
    tasks: tuple[str, ...] = tuple(TASKS)


PRETRAINED_LONGER = Budget(pretrain_steps=1000)
LONGER = replace(PRETRAINED_LONGER, full_steps=500, few_steps=0)  # the length in recipes/finetune
# from random weights, matching is not learned at the recipe's rate within 1,500 steps: its loss stays at chance
SLOW = replace(PRETRAINED_LONGER, full_steps=2000, full_rate=3.0e-4, few_steps=0)
# after SLOW, one seed of three without pre-training is still at chance in retrieval
MATCHING = replace(SLOW, full_steps=4000, tasks=("retrieval",))
ON_ALL_RECORDS = Budget(few_steps=0)  # no few-shot scores
QUICK = Budget(pretrain_steps=100, full_steps=30, few_records=100, few_steps=15)


@dataclass(frozen=True)
class Run:
    """One pre-training (or none) and the fine-tunings that score it."""

    variant: str
    share: float
    seed: int
    budget: Budget = field(default_factory=Budget)

    @property
    def name(self) -> str:
        """The name of its folder."""
        plain = "".join(c if c.isalnum() else "-" for c in self.variant)
        steps = f"steps{self.budget.pretrain_steps}-tuned{self.budget.full_steps}-rate{self.budget.full_rate:g}"
        return f"{plain}-share{round(100 * self.share)}-seed{self.seed}-{steps}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """The keys of recipes/scenes.yaml that the variant changes, as KEY=VALUE."""
        return (VARIANTS | ABLATIONS | TUNING | {WITHOUT: ()})[self.variant]


def grid_plan() -> list[Run]:
    """Every variant, share and seed. Runs behind the claims come first, seed by seed: a stopped plan has equal seeds."""
    runs = [run for seed in CLAIM_SEEDS for run in claim_runs(seed)]
    runs += [Run(variant, 1.0, seed) for seed in SEEDS for variant in (WITHOUT, BOTH)]
    runs += [run for seed in SEEDS for run in share_runs(seed)]
    return list(dict.fromkeys(runs))


def full_plan() -> list[Run]:
    """The grid, and one seed of each ablation without few-shot scores."""
    return grid_plan() + [Run(variant, 1.0, SEEDS[0], ON_ALL_RECORDS) for variant in ABLATIONS]


def plan_of_all() -> list[Run]:
    """The full plan; the same with longer pre-training, tuning and all seeds of LEADS; longer fine-tuning of the claims."""
    pretrained_longer = full_plan() + [Run(variant, 1.0, TUNING_SEED) for variant in TUNING]
    pretrained_longer += [Run(variant, 1.0, seed) for seed in SEEDS for variant in LEADS]
    runs = full_plan() + [replace(run, budget=PRETRAINED_LONGER) for run in pretrained_longer]
    runs += [replace(run, budget=LONGER) for seed in SEEDS for run in longer_runs(seed)]
    runs += [Run(WITHOUT, 1.0, seed, SLOW) for seed in SEEDS]
    runs += [replace(run, budget=SLOW) for seed in SEEDS for run in claim_runs(seed)]
    runs += [Run(WITHOUT, 1.0, seed, MATCHING) for seed in SEEDS]
    runs += [Run(variant, 1.0, SEEDS[0], MATCHING) for variant in (CMAL, CMCL, PLAIN)]
    return list(dict.fromkeys(runs))


def claim_runs(seed: int) -> list[Run]:
    return [Run(variant, 1.0, seed) for variant in (CMAL, CMCL, PLAIN)] + [Run(CMAL, 0.5, seed)]


def longer_runs(seed: int) -> list[Run]:
    return [Run(WITHOUT, 1.0, seed), *claim_runs(seed), Run(BOTH, 1.0, seed)]


def share_runs(seed: int) -> list[Run]:
    return [Run(variant, share, seed) for share in reversed(SHARES) for variant in VARIANTS]


def quick_plan() -> list[Run]:
    """One seed, two shares."""
    variants = [(variant, share) for share in (1.0, 0.5) for variant in (CMCL, CMAL)]
    return [Run(WITHOUT, 1.0, 0, QUICK)] + [Run(variant, share, 0, QUICK) for variant, share in variants]
