"""What a pre-trained model knows at swapped anchors, beside three controls that say where the knowledge comes from.

Every anchor of a caption is asked for by itself: its two slots are swapped, its duplicates masked, all else stays as it is.
From the text slot (which holds the region's vector): which visual anchor of the group is it? From the region slot (which
holds the word's): which word? The answer is right when the likeliest candidate shares the anchor's concept. A slot and its
partner, the other slot of its anchor, do not see each other: the partner is the answer. Controls:

- chance: the mean share of right candidates.
- context hidden: in the unified encoder no slot can attend to any other. What is left is what a guest says by itself: the
  look of a thing does not tell whether its kind or its colour is spoken of.
- guests shuffled: the vectors that visit the slots change places within the group, words' and regions' each their own
  way, so that guest and place disagree. The place still decides what is right: a model that follows the guests alone falls
  to chance or below, one that reads the context stays above.

The same three (swapped, context hidden, guests shuffled) are asked with the partner in sight too. It tells little: two slots
that see each other both know both guests, and are told from other pairs without any context.

Legend: B examples (one anchor each, so K = B), T word pieces, R regions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmal.data.batch import join_plans, make_batch
from cmal.data.example import Example, ExampleAnchors, ExampleBuilder
from cmal.data.masking import MaskingConfig, mask_example
from cmal.data.records import ImageTextRecord
from cmal.errors import CheckpointError, DataError
from cmal.model.association import Association, AssociativeMapping
from cmal.model.cmal import Cmal, UniModal
from cmal.model.inputs import MaskingPlan, move
from cmal.model.pretraining import CmalForPretraining
from cmal.model.prompt import put_rows, span_mean
from cmal.model.transformer import rows_at

GROUP_SIZE = 64
SHOWN_CONCEPTS = 3
DIRECTIONS = ("t2v", "v2t")
CONDITIONS = ("swapped", "context_hidden", "vectors_shuffled")
CONTROLS = ("chance", *CONDITIONS[1:])
COLUMNS = ("right", *(name.replace("_", " ") for name in CONTROLS), "partner in sight")  # of a table
# every anchor of the example, which has one (`with_one_anchor`), is swapped; nothing else is masked
SWAP_ALL = MaskingConfig(anchor=1.0, swap=1.0, mask=0.0, keep=0.0, word=0.0, region=0.0)


@dataclass(frozen=True)
class AnchorQuery:
    """One anchor of one record.

    Attributes:
        record, anchor: indices into the records, and into that record's anchors as far as the text was kept.
        region: index of its region; span: first word and one past the last.
    """

    record: int
    anchor: int
    region: int
    span: tuple[int, int]


@dataclass(frozen=True)
class Answer:
    """What the model says at one slot of a swapped anchor.

    Attributes:
        is_right: the likeliest candidate shares the anchor's concept.
        choice: concept of the likeliest candidate; probability: the sum over all right candidates.
        likeliest: up to three concepts with the summed probability of their candidates, most first.
    """

    is_right: bool
    choice: int
    probability: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class AssociationProbe:
    """All queries and what came out. Q queries; `right[condition][direction]`, `in_sight` alike and `chance` are (Q,).

    Attributes:
        queries: in the order they were asked; concepts, is_attribute: (Q,) of their anchors.
        right: whether the answer is right; in_sight: the same where a slot sees its partner.
        answers: direction -> Q answers, of the swapped condition.
        candidates: mean number of candidates a question.
    """

    queries: tuple[AnchorQuery, ...]
    concepts: np.ndarray
    is_attribute: np.ndarray
    right: dict[str, dict[str, np.ndarray]]
    in_sight: dict[str, dict[str, np.ndarray]]
    chance: np.ndarray
    answers: dict[str, tuple[Answer, ...]]
    candidates: float

    def accuracies(self, where: np.ndarray | None = None) -> dict[str, object]:
        """Accuracies and controls over all queries, or those where `where` (Q,) is True; None where there are none.

        Returns:
            `association_t2v`, `association_v2t`, `anchors` (how many queries), `controls`: those of CONTROLS, each
            with `t2v` and `v2t`, and `partner_in_sight`: those of CONDITIONS likewise.
        """
        kept = np.ones(len(self.queries), bool) if where is None else where
        both, in_sight = (
            {name: {d: _mean(right[name][d][kept]) for d in DIRECTIONS} for name in CONDITIONS}
            for right in (self.right, self.in_sight)
        )
        chance = dict.fromkeys(DIRECTIONS, _mean(self.chance[kept]))
        return {
            **{f"association_{d}": both["swapped"][d] for d in DIRECTIONS},
            "anchors": int(kept.sum()),
            "controls": {"chance": chance, **{name: both[name] for name in CONDITIONS[1:]}},
            "partner_in_sight": in_sight,
        }


def accuracies_and_controls(accuracies: Mapping[str, Any], direction: str) -> tuple[float | None, ...]:
    """What `AssociationProbe.accuracies` says of one direction, in the order of COLUMNS."""
    controls, in_sight = accuracies["controls"], accuracies["partner_in_sight"]
    of_controls = (controls[name][direction] for name in CONTROLS)
    return accuracies[f"association_{direction}"], *of_controls, in_sight["swapped"][direction]


@torch.no_grad()
def probe_association(
    model: CmalForPretraining,
    records: Sequence[ImageTextRecord],
    builder: ExampleBuilder,
    seed: int,
    micro_batch_size: int = GROUP_SIZE,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> AssociationProbe:
    """Asks a model about every anchor of some records.

    Args:
        model: with an AMC head; its mode is set to eval.
        builder: with an anchor finder.
        seed: of which anchors make up a group.
        micro_batch_size: queries a group; a group's anchors are each other's candidates.
        report: called with queries done and all queries.

    Raises:
        CheckpointError: the model has no AMC head.
        DataError: fewer than two anchors to tell apart.
    """
    if "amc" not in model.heads:
        raise CheckpointError(
            "cannot probe associations",
            f"the model has no head for them; it was pre-trained with {', '.join(sorted(model.heads)) or 'nothing'}",
            "pre-train with objectives.amc above 0, or leave --checkpoint away to see the anchors alone",
        )
    model.eval()
    queries = find_queries(records, builder)
    if len(queries) < 2:
        raise DataError(
            "cannot probe associations",
            f"{len(records):,} records have {len(queries)} anchors, and one alone cannot be told from others",
            "give more records, or regions whose tags the captions speak of",
        )
    generator = np.random.default_rng([seed, len(queries)])
    order = generator.permutation(len(queries))
    groups = np.array_split(order, -(-len(order) // micro_batch_size))
    asked = []
    for group in groups:
        asked.append(_ask_group(model, [queries[i] for i in group], records, builder, generator))
        report(sum(len(a[0]) for a in asked), len(queries))
    return _collect(tuple(queries[i] for i in order), asked)


def find_queries(records: Sequence[ImageTextRecord], builder: ExampleBuilder) -> list[AnchorQuery]:
    """Every anchor of every record, as far as the model's text length shows it."""
    queries = []
    for number, record in enumerate(records):
        anchors = anchors_of(builder.build(record.id, record.image_id, record.caption))
        spans = anchors.mentions.spans.tolist()
        for index, (region, mention) in enumerate(anchors.anchors.pairs.tolist()):
            queries.append(AnchorQuery(number, index, region, tuple(spans[mention])))
    return queries


def anchors_of(example: Example) -> ExampleAnchors:
    """The example's anchors, which are there because the builder has an anchor finder."""
    assert example.anchors is not None
    return example.anchors


def with_one_anchor(example: Example, index: int) -> Example:
    """The example as if it had this anchor only; positives and mentions, of which duplicates are made, stay."""
    anchors = anchors_of(example)
    found = anchors.anchors
    only = replace(
        found,
        pairs=found.pairs[[index]],
        is_attribute=found.is_attribute[[index]],
        concepts=found.concepts[[index]],
    )
    return replace(example, anchors=replace(anchors, anchors=only))


_Associations = dict[str, tuple[Association, Association]]  # condition -> text to region and region to text
_GroupResult = tuple[MaskingPlan[Tensor], _Associations, _Associations]


def _ask_group(
    model: CmalForPretraining,
    queries: Sequence[AnchorQuery],
    records: Sequence[ImageTextRecord],
    builder: ExampleBuilder,
    generator: np.random.Generator,
) -> _GroupResult:
    """The plan of one group and every condition, with the partner out of sight and in sight, on the CPU."""
    pieces = builder.word_pieces
    asked = [(records[q.record], q.anchor) for q in queries]
    examples = [with_one_anchor(builder.build(r.id, r.image_id, r.caption), anchor) for r, anchor in asked]
    maskings = [mask_example(example, SWAP_ALL, pieces.mask_id, len(pieces), generator) for example in examples]
    batch = make_batch(examples)
    plan = join_plans([masking.plan for masking in maskings])
    head, device = model.heads["amc"], next(model.parameters()).device
    assert isinstance(head, AssociativeMapping)
    batch, plan = batch.to(device), move(plan, device)
    states = model.cmal.encode(*batch.inputs)
    shuffled = shuffle_swapped_in(states, plan, *disagreeing_sources(plan.concept.cpu().numpy(), generator))
    seen = {"swapped": states, "context_hidden": hide_context(states, plan), "vectors_shuffled": shuffled}

    def associate(hidden: Tensor) -> tuple[Association, Association]:
        to_region, to_word = head.among_micro_batch(hidden, states.tokens, plan)
        return _on_cpu(to_region), _on_cpu(to_word)

    apart = {name: associate(unify_without_partners(model.cmal, those, plan)) for name, those in seen.items()}
    in_sight = {name: associate(model.cmal.unify(those, plan)) for name, those in seen.items()}
    return plan, apart, in_sight


def _on_cpu(association: Association) -> Association:
    return Association(association.logits.float().cpu(), association.is_positive.cpu())


def hide_context(states: UniModal, plan: MaskingPlan[Tensor]) -> UniModal:
    """The same slots, but only those of the chosen anchors are real."""
    is_word, is_region = anchor_slots(states, plan)
    return replace(states, token_mask=is_word, region_mask=is_region)


def unify_without_partners(cmal: Cmal, states: UniModal, plan: MaskingPlan[Tensor]) -> Tensor:
    """Hidden states (B, T+R, D) in which the chosen anchors' slots know nothing of their partners.

    The text slot's are of a forward without the region's slot, and the region slot's of one without the text slot: two
    slots that only do not see each other (`attend_across_swap=False`) hear of each other by a third. The pieces of one span
    hold the same guest and see each other.
    """
    is_word, is_region = anchor_slots(states, plan)
    words = cmal.unify(replace(states, region_mask=states.region_mask & ~is_region), plan)
    regions = cmal.unify(replace(states, token_mask=states.token_mask & ~is_word), plan)
    return torch.cat([words[:, : states.tokens], regions[:, states.tokens :]], dim=1)


def anchor_slots(states: UniModal, plan: MaskingPlan[Tensor]) -> tuple[Tensor, Tensor]:
    """(B, T) and (B, R) True at the chosen anchors' word pieces and regions."""
    is_word, is_region = torch.zeros_like(states.token_mask), torch.zeros_like(states.region_mask)
    is_word[plan.example[plan.piece_anchor], plan.piece_position] = True
    is_region[plan.example, plan.region] = True
    return is_word, is_region


def shuffle_swapped_in(
    states: UniModal, plan: MaskingPlan[Tensor], region_sources: Tensor, word_sources: Tensor
) -> UniModal:
    """States in which anchor i's region is that of anchor `region_sources[i]`, and its words those of `word_sources[i]`.

    The swap then brings exactly these into the other modality's slots; all other slots stay.

    Args:
        region_sources, word_sources: (K,) permutations of the chosen anchors.
    """
    device = states.text.device
    regions = rows_at(states.visual, plan.example, plan.region)[region_sources.to(device)]  # (K, D)
    words = span_mean(states.text, plan)[word_sources.to(device)]  # (K, D); the prompt puts the mean back on the sphere
    piece_example = plan.example[plan.piece_anchor]
    text = put_rows(states.text, piece_example, plan.piece_position, words[plan.piece_anchor])
    return replace(states, text=text, visual=put_rows(states.visual, plan.example, plan.region, regions))


def disagreeing_sources(concepts: np.ndarray, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Two permutations (K,) that bring every place a guest of another concept, and the two guests of a place apart too.

    The anchors are put in a ring, concept by concept; regions move a third of the ring on and words a third back. Where no
    concept has more than a third of the anchors, none of the three (place, region guest, word guest) agree.
    """
    size = len(concepts)
    shuffled = generator.permutation(size)
    ring = shuffled[np.argsort(concepts[shuffled], kind="stable")]
    shift = max(1, size // 3)
    guests = []
    for turn in (shift, -shift):
        permutation = np.empty(size, np.int64)
        permutation[ring] = np.roll(ring, -turn)
        guests.append(torch.from_numpy(permutation))
    return guests[0], guests[1]


def _collect(queries: tuple[AnchorQuery, ...], asked: Sequence[_GroupResult]) -> AssociationProbe:
    plans, apart, in_sight = zip(*asked)
    shares = [one["swapped"][0].is_positive.float().mean(dim=1).numpy() for one in apart]
    return AssociationProbe(
        queries=queries,
        concepts=np.concatenate([plan.concept.cpu().numpy() for plan in plans]),
        is_attribute=np.concatenate([plan.is_attribute.cpu().numpy() for plan in plans]),
        right=_all_right(apart),
        in_sight=_all_right(in_sight),
        chance=np.concatenate(shares),
        answers={
            d: tuple(a for plan, one in zip(plans, apart) for a in _answers(one["swapped"][i], plan.concept.cpu()))
            for i, d in enumerate(DIRECTIONS)
        },
        candidates=float(np.mean(np.repeat([len(s) for s in shares], [len(s) for s in shares]))),
    )


def _all_right(groups: Sequence[_Associations]) -> dict[str, dict[str, np.ndarray]]:
    """condition -> direction -> (Q,) bool."""
    return {
        name: {d: np.concatenate([_is_right(group[name][i]) for group in groups]) for i, d in enumerate(DIRECTIONS)}
        for name in CONDITIONS
    }


def _is_right(association: Association) -> np.ndarray:
    best = association.logits.argmax(dim=1, keepdim=True)
    return association.is_positive.gather(1, best).squeeze(1).numpy()


def _answers(association: Association, concepts: Tensor) -> list[Answer]:
    """One Answer a row. concepts: (C,) of the candidates."""
    probabilities = association.logits.softmax(dim=1)  # (Q, C)
    kinds, kind_of = torch.unique(concepts, return_inverse=True)
    by_kind = torch.zeros(len(probabilities), len(kinds)).index_add(1, kind_of, probabilities)
    shown = by_kind.topk(min(SHOWN_CONCEPTS, len(kinds)), dim=1)
    rows = zip(
        _is_right(association).tolist(),
        concepts[probabilities.argmax(dim=1)].tolist(),
        (probabilities * association.is_positive).sum(dim=1).tolist(),
        kinds[shown.indices].tolist(),
        shown.values.tolist(),
    )
    return [Answer(right, choice, p, tuple(zip(names, values))) for right, choice, p, names, values in rows]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
