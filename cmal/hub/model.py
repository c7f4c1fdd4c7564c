"""A trained model for use in Python, and its way to and from the Hugging Face hub.

    import cmal
    model = cmal.load("runs/scenes")                        # a run, a checkpoint, a saved folder, or a name on the hub
    [photo] = model.find_regions(["photo.jpg"])             # by the detector it was trained with
    model.encode_texts(["a red dog"])[0].shape              # (T, D); model.encode_regions([photo])[0] is (R, D)
    model.score(photo, "a red dog beside a tree")           # the probability that they belong together
    model.find(photo, "the red dog")                        # every region with its probability, likeliest first

`save_pretrained(FOLDER)` writes what `from_pretrained` reads: model.safetensors, config.json (with id2label),
vocab.txt, and README.md, a model card filled from the run. `push_to_hub("you/name")` sends these.

Legend: B batch, T word pieces, R regions, D width.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from cmal.data.batch import make_batch
from cmal.data.example import ExampleBuilder
from cmal.data.text import WordPieces
from cmal.errors import CheckpointError
from cmal.hub.model_card import model_card
from cmal.io.files import atomic_path
from cmal.model.association import AssociativeMapping
from cmal.model.cmal import build_cmal
from cmal.model.inputs import Batch
from cmal.model.pretraining import CmalForPretraining
from cmal.regions.detectors import build_detector
from cmal.regions.images import read_image
from cmal.regions.types import Regions
from cmal.runs.answers import TaskModel
from cmal.runs.building import VOCABULARY, build_pretraining_model, load_word_pieces, write_beside_weights
from cmal.runs.folder import find_checkpoint, run_of
from cmal.runs.model_config import CONFIG, OLD_CONFIG, ModelConfig
from cmal.tasks import TaskOptions, build_task
from cmal.tasks.base import cls_states, region_states
from cmal.tasks.rec import ReferringExpressions
from cmal.tasks.retrieval import Retrieval
from cmal.tasks.vqa import Vqa
from cmal.training.checkpoint import WEIGHTS, fit_weights, load_weights

FILES = (WEIGHTS, CONFIG, OLD_CONFIG, VOCABULARY, "README.md", "recipe.yaml")


@dataclass(frozen=True)
class Found:
    """A region with the probability that it is meant; its box in pixels, and its index among the regions."""

    probability: float
    box_xyxy_px: tuple[float, float, float, float]
    region: int


class CmalModel(nn.Module, ModelHubMixin):
    """A pre-trained or fine-tuned model with its vocabulary, in evaluation mode. Load it with `from_pretrained`.

    Attributes:
        config: sizes, heads, task, labels, detector.
        word_pieces: its vocabulary.
        model: `CmalForPretraining` or `TaskModel`; model.cmal is the encoders.
        source: the run or folder it came from, or None.
    """

    def __init__(self, config: ModelConfig, word_pieces: WordPieces, source: Path | None = None):
        super().__init__()
        self.config, self.word_pieces, self.source = config, word_pieces, source
        self.model: CmalForPretraining | TaskModel = _build(config)
        self.eval()

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the hub's options go to snapshot_download as they are
        cls, name: str | Path, **options: Any
    ) -> CmalModel:
        """A model from a run folder (its best or else its last checkpoint), a checkpoint, a saved folder, or the hub.

        Args:
            name: the folder, or OWNER/NAME on the hub.
            options: of `huggingface_hub.snapshot_download` (revision, token, cache_dir, local_files_only, ...).

        Raises:
            CheckpointError: it cannot be found, or its files are missing, damaged or do not fit each other.
        """
        if Path(name).is_dir():
            folder = find_checkpoint(Path(name))
        else:
            try:
                folder = Path(snapshot_download(str(name), allow_patterns=list(FILES), **options))
            except (OSError, ValueError, HFValidationError) as error:  # among them: no such repository, no network
                raise CheckpointError(
                    f'cannot load the model "{name}"',
                    f"it is no folder here, and the hub says: {(str(error).strip().splitlines() or ['nothing'])[0]}",
                    "give a run folder such as runs/scenes, or the name of a model on the hub",
                ) from error
        loaded = cls(ModelConfig.read(folder), load_word_pieces(folder), run_of(folder) or folder)
        fit_weights(loaded.model, load_weights(folder), folder)
        return loaded

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write everything but the card, which the mixin writes; called by `save_pretrained` and `push_to_hub`."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        with atomic_path(save_directory / WEIGHTS) as temporary:
            save_file(weights, temporary, metadata={"format": "pt"})
        write_beside_weights(save_directory, self.config, self.word_pieces)
        recipe = self.source / "recipe.yaml" if self.source else None
        if recipe and recipe.is_file() and not recipe.samefile(save_directory):
            shutil.copyfile(recipe, save_directory / "recipe.yaml")

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card, filled from the run: sizes, training, scores with their protocols, leakage."""
        return ModelCard(model_card(self.config, self.source, sum(p.numel() for p in self.model.parameters())))

    @cached_property
    def detector(self) -> Any:
        """The detector whose regions the model was trained on."""
        return build_detector(self.config.detector, device=str(self.device))

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.parameters()).device

    def find_regions(self, images: Sequence[str | Path | np.ndarray]) -> list[Regions]:
        """The regions of images: files, or (H, W, 3) uint8 arrays. Raises CmalError where one cannot be read."""
        return self.detector.detect([i if isinstance(i, np.ndarray) else read_image(Path(i)) for i in images])

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> list[Tensor]:
        """The textual encoder alone: (T, D) each, [CLS] first and [SEP] last."""
        batch = self._batch([_no_regions(self.config)] * len(texts), texts)
        states = self.model.cmal.textual(batch.token_ids, batch.token_mask)
        return [row[mask] for row, mask in zip(states, batch.token_mask)]

    @torch.no_grad()
    def encode_regions(self, images: Sequence[Regions]) -> list[Tensor]:
        """The visual encoder alone: (R, D) each."""
        batch = self._batch(images, [""] * len(images))
        states = self.model.cmal.visual(batch.features, batch.boxes_unit, batch.region_mask)
        return [row[mask] for row, mask in zip(states, batch.region_mask)]

    @torch.no_grad()
    def score(self, image: Regions, text: str) -> float:
        """The probability that text and image belong together.

        Raises:
            CheckpointError: the model has no matching head (pre-training with objectives.itm, or retrieval).
        """
        head = self._head(
            "itm", Retrieval, "score pairs", "pre-trained with objectives.itm, or fine-tuned on retrieval"
        )
        return float(head(cls_states(self.model.cmal, self._batch([image], [text]))).sigmoid())

    @torch.no_grad()
    def find(self, image: Regions, phrase: str) -> list[Found]:
        """All regions with the probability that the phrase means them, likeliest first.

        A model fine-tuned on referring expressions answers with its head. For a pre-trained one the
        association head compares the mean of the phrase's word pieces with every region. Nothing is swapped. Ours: the
        model was not trained for this use of the head.

        Raises:
            CheckpointError: the model has neither head.
        """
        head = self._head("amc", ReferringExpressions, "find phrases", "pre-trained with objectives.amc, or on refcoco")
        batch = self._batch([image], [phrase])
        if self.config.kind == "task":
            logits = head(region_states(self.model.cmal, batch)[0]).squeeze(-1)
        else:
            assert isinstance(head, AssociativeMapping)
            hidden = self.model.cmal.unify(self.model.cmal.encode(*batch.inputs))[0]
            tokens = batch.token_mask.shape[1]
            words = F.normalize(head.text(hidden[1 : tokens - 1].mean(dim=0)), dim=-1)
            logits = F.normalize(head.region(hidden[tokens:]), dim=-1) @ words / head.temperature
        order = logits.softmax(dim=0).sort(descending=True, stable=True)
        boxes = np.asarray(image.boxes_xyxy_px, np.float64)
        ranked = zip(order.values.tolist(), order.indices.tolist())
        return [Found(p, tuple(boxes[region].tolist()), region) for p, region in ranked if region < len(image)]

    @torch.no_grad()
    def answer(self, image: Regions, text: str) -> dict[str, float]:
        """Label -> probability, likeliest first: of answers to a question, or of entailment for a sentence.

        Raises:
            CheckpointError: the model was not fine-tuned on a task with labels.
        """
        model = self.model
        if not self.config.labels or not isinstance(model, TaskModel):
            raise self._cannot("answer", "fine-tuned on vqa or snli-ve")
        logits = model.task.forward(model.cmal, model.head, self._batch([image], [text]))[0].float()
        probabilities = logits.sigmoid() if isinstance(model.task, Vqa) else logits.softmax(dim=0)
        order = probabilities.argsort(descending=True, stable=True).tolist()
        return {self.config.labels[index]: float(probabilities[index]) for index in order}

    def _head(self, pretraining: str, task: type, what: str, needed: str) -> nn.Module:
        model = self.model
        if isinstance(model, CmalForPretraining) and pretraining in model.heads:
            return model.heads[pretraining]
        if isinstance(model, TaskModel) and isinstance(model.task, task):
            return model.head
        raise self._cannot(what, needed)

    def _cannot(self, what: str, needed: str) -> CheckpointError:
        heads = ", ".join(sorted(self.config.weights)) or "none"
        found = (
            f'its task is "{self.config.task}"' if self.config.kind == "task" else f"its pre-training heads: {heads}"
        )
        return CheckpointError(f"this model cannot {what}", found, f"load one {needed}")

    def _batch(self, images: Sequence[Regions], texts: Sequence[str]) -> Batch:
        store = {str(index): image for index, image in enumerate(images)}
        max_tokens = self.config.sizes["max_tokens"]
        builder = ExampleBuilder(self.word_pieces, store, max_tokens)  # type: ignore[arg-type]  # a dict has the `[]` that is used
        examples = [builder.build(str(index), str(index), text) for index, text in enumerate(texts)]
        return make_batch(examples).to(self.device)


load = CmalModel.from_pretrained


def _build(config: ModelConfig) -> CmalForPretraining | TaskModel:
    if config.kind == "pretraining":
        return build_pretraining_model(config)
    task = build_task(config.task, TaskOptions(config.labels))
    return TaskModel(build_cmal(**config.sizes), task.build_head(config.sizes["width"], 0.0), task)


def _no_regions(config: ModelConfig) -> Regions:
    size, none = config.sizes["region_features"], np.zeros(0, np.int64)
    nothing = np.zeros((0, 10))
    return Regions(np.zeros((0, size), np.float32), np.zeros((0, 4)), none, none, none, none, nothing, nothing, (1, 1))
