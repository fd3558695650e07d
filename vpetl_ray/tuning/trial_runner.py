"""The real trials: a warm worker's backbone, clips and features, and one config at a time in it.

This is the only file of `tuning` that knows how a model is built and trained.
"""

import io
import logging
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import ViewSpec
from vpetl_ray.data.node_copy import local_clips, local_features
from vpetl_ray.data.shared_store import SharedStore, fetched_once, shared_store
from vpetl_ray.data.stored_clips import StoredClips
from vpetl_ray.errors import CheckpointError, DataError
from vpetl_ray.models.arch import Arch
from vpetl_ray.models.backbone import Backbone
from vpetl_ray.models.build import build_model
from vpetl_ray.models.checkpoints import load_backbone
from vpetl_ray.petl.adapter_file import describe_adapter
from vpetl_ray.petl.attach import HEAD, Attached, attach
from vpetl_ray.training.cut import find_lead
from vpetl_ray.training.evaluation import evaluate_inputs, evaluate_views
from vpetl_ray.training.feature_store import DEFAULT_DISK_BYTES, FeatureStore
from vpetl_ray.training.features import (
    DEFAULT_MAX_BYTES,
    EVALUATION_VIEW,
    FeatureCache,
    Inputs,
)
from vpetl_ray.training.loop import FineTuning
from vpetl_ray.training.measure import measure_latency, measure_step_memory
from vpetl_ray.training.model_facts import DataFacts, adapter_facts
from vpetl_ray.training.profile import TrialProfile
from vpetl_ray.training.recipe import Recipe
from vpetl_ray.tuning.messages import Task
from vpetl_ray.tuning.space import TrialConfig
from vpetl_ray.tuning.trial_protocol import EpochOutput, GroupSetup, WorkerContext

log = logging.getLogger(__name__)

BackboneArrays = Mapping[str, NDArray[Any]]
"""A backbone's tensors by name, without classifier."""


@dataclass(frozen=True, kw_only=True)
class FineTuningSetup:
    """What every trial of a search has in common."""

    arch: Arch
    clip_store: str
    """Folder of the clip store, as every node sees it."""
    view: ViewSpec
    seed: int
    """Of data order, views and every initial value, where a task does not bring its own."""
    measured: tuple[str, ...] = ()
    """Of `results.objectives.COSTS`: what is measured of every trial that begins."""
    facts: DataFacts | None = None
    """What adapter files say of the data and the backbone, so that they can be used elsewhere."""
    feature_bytes: int = DEFAULT_MAX_BYTES
    """Memory that one worker may use for features of the frozen part."""
    profile: str | None = None
    """Folder for the profile of the first trial that the first group trains."""
    feature_store: str | None = None
    """Folder where workers share them on the disk; None for each by itself, in memory."""
    feature_disk_bytes: int = DEFAULT_DISK_BYTES
    """What they may take there."""


def fine_tuning_groups(setup: FineTuningSetup, weights: str | Path) -> GroupSetup:
    """Set up groups for a search: the weights are read and checked here, once for all workers.

    Raises:
        CheckpointError: the weights are not this architecture's.
    """
    model = build_model(setup.arch, num_classes=1)
    load_backbone(model, weights)
    arrays = {
        name: tensor.numpy()
        for name, tensor in model.state_dict().items()
        if not name.startswith(f"{HEAD}.")
    }
    return GroupSetup(make_runner=make_runner, payload=setup, shared=arrays)


def make_runner(setup: FineTuningSetup, context: WorkerContext) -> "FineTuningRunner":
    """Build a worker's runner: the backbone in its memory, the clips mapped."""
    return FineTuningRunner(setup, context)


class FineTuningRunner:
    """A `TrialRunner` that fine-tunes one config after another in the same backbone."""

    def __init__(self, setup: FineTuningSetup, context: WorkerContext) -> None:
        store = ClipStore.open(local_clips(setup.clip_store))
        self._store = store
        self._train = store.split("train", setup.view, seed=setup.seed)
        self._val = store.split("val", setup.view, seed=setup.seed)
        self._test = store.split("test", setup.view, seed=setup.seed)
        self._model = _build(setup.arch, len(store.classes), context.shared).to(context.device)
        self._features = FeatureCache(setup.feature_bytes, _open_store(setup))
        self._classes = list(store.classes)
        self._backbone_hash: str | None = None
        self._setup = setup
        self._context = context
        self._trial_id = ""
        self._seed = setup.seed
        self._with_views = False
        self._config: TrialConfig | None = None
        self._attached: Attached | None = None
        self._tuning: FineTuning | None = None
        self._num_parts = 1
        self._to_measure: tuple[str, ...] = ()
        self._profile: TrialProfile | None = None
        self._profile_folder = setup.profile

    def start(self, task: Task) -> None:
        """Attach the task's config, and put back what it comes with."""
        config: TrialConfig = task.config
        self._trial_id, self._config, self._num_parts = task.trial_id, config, task.num_parts
        if task.num_parts > 1:  # the attempt before ran out of memory
            self._features.clear()
            torch.cuda.empty_cache()
        self._seed = self._setup.seed if task.seed is None else task.seed
        attached = attach(self._model, config.petl, seed=self._seed)
        self._attached = attached
        if task.kind != "train":
            self._with_views = task.kind == "evaluate_views"
            attached.load_state_dict(_unpack_tensors(task))
            return
        self._tuning = FineTuning(
            self._model,
            attached,
            self._train_clips(),
            self._val,
            config.recipe,
            seed=self._seed,
            rank=self._context.rank,
            world_size=self._context.world_size,
            features=self._features,
            profile=self._start_profile(config.recipe),
            num_parts=task.num_parts,
            on_batch=self._context.alive,
        )
        is_new = task.start_state is None and self._context.rank == 0
        self._to_measure = self._setup.measured if is_new else ()
        if task.start_state is not None:
            self._tuning.load_state_dict(
                torch.load(io.BytesIO(task.start_state), weights_only=True)
            )

    def run_epoch(self) -> EpochOutput:
        """Train an epoch and evaluate it on val; or evaluate once on test."""
        if self._tuning is None:
            return self._evaluate()
        # Before the epoch, whose time they are no part of; with its result they travel on.
        costs = {name: self._measure(name) for name in self._to_measure}
        self._to_measure = ()
        with nullcontext() if self._profile is None else self._profile.epoch():
            result = asdict(self._tuning.run_epoch())
        metrics = {**result, **costs}
        return EpochOutput(epoch=metrics.pop("epoch"), metrics=metrics, is_last=self._tuning.done)

    def state(self) -> bytes:
        """Trainable tensors, optimiser and epoch."""
        buffer = io.BytesIO()
        if self._tuning is not None:
            torch.save(self._tuning.state_dict(), buffer)
        return buffer.getvalue()

    def result(self) -> bytes:
        """The trial's adapter file, as `petl.adapter_file` reads it; nothing for an evaluation."""
        from safetensors.torch import save  # noqa: PLC0415 - as everywhere: only where it is used

        if self._tuning is None or self._attached is None or self._config is None:
            return b""
        facts = adapter_facts(
            self._setup.facts,
            trial=self._trial_id,
            seed=self._seed,
            classes=self._classes,
            precision=self._config.recipe.precision,
        )
        header = describe_adapter(self._attached, facts, backbone_hash=self._backbone_hash)
        self._backbone_hash = header["backbone"]
        return save(self._attached.state_dict(), metadata=header)

    def close(self) -> None:
        """Take the config out of the backbone again."""
        if self._profile is not None:
            if self._tuning is not None and self._tuning.done:
                self._profile.finish({"trial": self._trial_id})
            self._profile.close()
            self._profile = None
        if self._attached is not None:
            self._attached.detach()
        self._attached = self._tuning = self._config = None

    def _start_profile(self, recipe: Recipe) -> TrialProfile | None:
        context = self._context
        if self._profile_folder is None or context.group or context.rank:
            return None
        folder, self._profile_folder = self._profile_folder, None
        self._profile = TrialProfile(
            Path(folder),
            torch.device(context.device),
            recipe.precision,
            counts_flops=not recipe.compile,
        )
        return self._profile

    def _measure(self, name: str) -> float:
        """Measure one cost of what is attached, on this worker's device."""
        assert self._attached is not None
        assert self._config is not None
        recipe = self._config.recipe
        clip = self._val.batch([0], epoch=0, train=False)
        if name == "latency_ms":
            return measure_latency(self._model, clip, recipe.precision)
        if name == "peak_memory_mb":
            num_shares = self._context.world_size * self._num_parts
            share = -(-min(recipe.batch_size, len(self._train)) // num_shares)
            return measure_step_memory(self._attached, clip, recipe, batch_size=share)
        raise ValueError(f"{name} is not measured")

    def _train_clips(self) -> StoredClips:
        """Give the training clips, which differ by seed only where they are augmented.

        Where they are not, one source serves all: features of the frozen part are kept by source.
        """
        if self._setup.view.is_fixed or self._seed == self._setup.seed:
            return self._train
        return self._store.split("train", self._setup.view, seed=self._seed)

    def _test_inputs(self, recipe: Recipe) -> Inputs:
        """The test clips as they enter what was trained: the rest of the way is kept."""
        assert self._attached is not None
        inputs = Inputs(
            model=self._model,
            source=self._test,
            depth=self._attached.first_depth,
            lead=find_lead(self._attached),
            device=self._model.head.weight.device,
            precision=recipe.precision,
            on_batch=self._context.alive,
        )
        kept = self._features.get(inputs, view=EVALUATION_VIEW, batch_size=self._eval_batch_size)
        return replace(inputs, features=kept)

    @property
    def _eval_batch_size(self) -> int:
        assert self._config is not None
        return -(-self._config.recipe.eval_batch_size // self._num_parts)

    def _evaluate(self) -> EpochOutput:
        assert self._config is not None
        recipe = self._config.recipe
        where: dict[str, Any] = {
            "batch_size": self._eval_batch_size,
            "rank": self._context.rank,
            "world_size": self._context.world_size,
        }
        how = {**where, "precision": recipe.precision, "on_batch": self._context.alive}
        found = evaluate_inputs(self._test_inputs(recipe), **where)
        metrics = {"top1": found.top1, "loss": found.loss, "num_clips": found.num_clips}
        if self._with_views:
            num_views = self._test.num_views
            # The one view is the centre.
            several = evaluate_views(self._model, self._test, **how) if num_views > 1 else found
            metrics |= {
                "views_top1": several.top1,
                "views_loss": several.loss,
                "num_views": num_views,
            }
        return EpochOutput(epoch=0, metrics=metrics, is_last=True)


def _open_store(setup: FineTuningSetup) -> FeatureStore | None:
    folder = local_features(setup.feature_store)
    if folder is None or not setup.feature_disk_bytes:
        return None
    shared = shared_store()
    if shared is None:
        return FeatureStore(folder, setup.feature_disk_bytes)
    return FeatureStore(
        folder,
        setup.feature_disk_bytes,
        fetch=lambda name, target: _fetch_features(shared, name, target),
        push=lambda name, source: _push_features(shared, name, source),
    )


def _fetch_features(shared: SharedStore, name: str, target: Path) -> bool:
    """Fetch what another node has computed; where that fails, it is computed here."""
    try:
        return fetched_once(f"features/{name}", target, shared)
    except DataError as error:
        log.warning("features are not fetched: %s", error)
        return False


def _push_features(shared: SharedStore, name: str, source: Path) -> None:
    try:
        shared.push(f"features/{name}", source)
    except DataError as error:
        log.warning("features are not given to other nodes: %s", error)


def _build(arch: Arch, num_classes: int, arrays: BackboneArrays) -> Backbone:
    model = build_model(arch, num_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # read-only arrays, which are only read
        tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
    left_out = model.load_state_dict(tensors, strict=False).missing_keys
    if any(not name.startswith(f"{HEAD}.") for name in left_out):
        raise CheckpointError(f"the backbone's weights lack {', '.join(left_out)}")
    return model


def _unpack_tensors(task: Task) -> dict[str, torch.Tensor]:
    from safetensors.torch import load  # noqa: PLC0415

    if not task.start_state:
        raise CheckpointError(f"{task.trial_id}: an evaluation needs the trained tensors")
    return load(task.start_state)
