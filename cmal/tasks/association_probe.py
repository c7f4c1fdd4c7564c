"""Does a pre-trained model know which region and which word belong together? A probe at swapped anchors, with controls.

Every anchor of a caption is one query: its two slots are swapped, its duplicates masked, and everything else stays. The
text slot, which holds the region's vector, is classified among the visual anchors of the group; the region slot, which
holds the word's vector, among the words. An answer is right when the most probable candidate has the anchor's concept. A
slot does not attend to its partner, the other slot of its anchor, because the partner is the answer. Controls:

- chance: the mean share of right candidates.
- context hidden: no slot attends to any other in the unified encoder. What remains is what the swapped-in vector alone
  identifies. (A region's vector does not tell whether the caption names its kind or its colour.)
- vectors shuffled: swapped-in vectors are exchanged within the group, words and regions each in their own way, so that
  vector and slot disagree. The slot's anchor is still the right answer: a model that follows the vectors alone falls to
  chance or below, one that reads the context stays above.

The same three conditions are also measured with the partner visible ("in sight"). That says little: two slots that attend to
each other both hold both vectors, and are recognised without any context.

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
        is_right: the most probable candidate shares the anchor's concept.
        choice: concept of the most probable candidate; probability: the sum over all right candidates.
        likeliest: up to three concepts with the summed probability of their candidates, most first.
    """

    is_right: bool
    choice: int
    probability: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class AssociationProbe:
    """The outcome of Q queries.

    Attributes:
        queries: in order; concepts, is_attribute: (Q,) of their anchors.
        right: condition -> direction -> (Q,) whether the answer is right; in_sight: the same with the partner visible.
        chance: (Q,) share of right candidates.
        answers: direction -> Q answers, of the swapped condition.
        candidates: mean number of candidates per query.
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
    group_size: int = GROUP_SIZE,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> AssociationProbe:
    """Probes a model at every anchor of some records.

    Args:
        model: with an AMC head; its mode is set to eval.
        builder: with an anchor finder.
        seed: of which anchors make up a group.
        group_size: queries a group; a group's anchors are each other's candidates.
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
            f"{len(records):,} records have {len(queries)} anchors, but a probe needs at least two",
            "give more records, or regions whose tags the captions speak of",
        )
    generator = np.random.default_rng([seed, len(queries)])
    order = generator.permutation(len(queries))
    groups = np.array_split(order, -(-len(order) // group_size))
    results = []
    for group in groups:
        results.append(_probe_group(model, [queries[i] for i in group], records, builder, generator))
        report(sum(len(plan) for plan, _, _ in results), len(queries))
    return _collect(tuple(queries[i] for i in order), results)


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


def _probe_group(
    model: CmalForPretraining,
    queries: Sequence[AnchorQuery],
    records: Sequence[ImageTextRecord],
    builder: ExampleBuilder,
    generator: np.random.Generator,
) -> _GroupResult:
    """The plan of one group, and its associations in every condition with the partner hidden and visible, on the CPU."""
    pieces = builder.word_pieces
    pairs = [(records[query.record], query.anchor) for query in queries]
    examples = [with_one_anchor(builder.build(r.id, r.image_id, r.caption), anchor) for r, anchor in pairs]
    maskings = [mask_example(example, SWAP_ALL, pieces.mask_id, len(pieces), generator) for example in examples]
    batch = make_batch(examples)
    plan = join_plans([masking.plan for masking in maskings])
    head, device = model.heads["amc"], next(model.parameters()).device
    assert isinstance(head, AssociativeMapping)
    batch, plan = batch.to(device), move(plan, device)
    states = model.cmal.encode(*batch.inputs)
    shuffled = shuffle_swapped_in(states, plan, *disagreeing_sources(plan.concept.cpu().numpy(), generator))
    conditions = {"swapped": states, "context_hidden": hide_context(states, plan), "vectors_shuffled": shuffled}

    def associate(hidden: Tensor) -> tuple[Association, Association]:
        to_region, to_word = head.among_micro_batch(hidden, states.tokens, plan)
        return _on_cpu(to_region), _on_cpu(to_word)

    hidden_partner = {
        name: associate(unify_without_partners(model.cmal, inputs, plan)) for name, inputs in conditions.items()
    }
    in_sight = {name: associate(model.cmal.unify(inputs, plan)) for name, inputs in conditions.items()}
    return plan, hidden_partner, in_sight


def _on_cpu(association: Association) -> Association:
    return Association(association.logits.float().cpu(), association.is_positive.cpu())


def hide_context(states: UniModal, plan: MaskingPlan[Tensor]) -> UniModal:
    """The same slots, but only those of the chosen anchors are real."""
    is_word, is_region = anchor_slots(states, plan)
    return replace(states, token_mask=is_word, region_mask=is_region)


def unify_without_partners(cmal: Cmal, states: UniModal, plan: MaskingPlan[Tensor]) -> Tensor:
    """Hidden states (B, T+R, D) in which the slots of the chosen anchors have no information about their partners.

    The text slots come from a forward without the region slot, and the region slots from one without the text slots.
    Blocking attention between the two (`attend_across_swap=False`) is not enough: a third slot could carry one's content to
    the other. The pieces of one span hold the same swapped-in vector and attend to each other.
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
    """Two permutations (K,) that give every slot a vector of another concept, and the two slots of an anchor different ones.

    The anchors are put in a ring, sorted by concept. Regions move a third of the ring forwards and words a third backwards.
    Where no concept has more than a third of the anchors, the three concepts (anchor, its region's source, its word's
    source) all differ.
    """
    size = len(concepts)
    shuffled = generator.permutation(size)
    ring = shuffled[np.argsort(concepts[shuffled], kind="stable")]
    shift = max(1, size // 3)
    sources = []
    for turn in (shift, -shift):
        permutation = np.empty(size, np.int64)
        permutation[ring] = np.roll(ring, -turn)
        sources.append(torch.from_numpy(permutation))
    return sources[0], sources[1]


def _collect(queries: tuple[AnchorQuery, ...], results: Sequence[_GroupResult]) -> AssociationProbe:
    plans, hidden_partner, in_sight = zip(*results)
    shares = [one["swapped"][0].is_positive.float().mean(dim=1).numpy() for one in hidden_partner]
    return AssociationProbe(
        queries=queries,
        concepts=np.concatenate([plan.concept.cpu().numpy() for plan in plans]),
        is_attribute=np.concatenate([plan.is_attribute.cpu().numpy() for plan in plans]),
        right=_all_right(hidden_partner),
        in_sight=_all_right(in_sight),
        chance=np.concatenate(shares),
        answers={
            d: tuple(
                a for plan, one in zip(plans, hidden_partner) for a in _answers(one["swapped"][i], plan.concept.cpu())
            )
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
    """One Answer per row. concepts: (C,) of the candidates."""
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
