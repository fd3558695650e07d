"""The sections of a search space file: every key, what it may be, and its default.

The descriptions are the reference that the documentation prints. A field marked `Searched` takes
a domain in place of a value; `Given` ones take one value. The methods are in `petl_sections`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from vpetl_ray.data.catalogue import SOURCES
from vpetl_ray.data.config import DEFAULT_VIEWS, FREE
from vpetl_ray.models.arch import ARCHS
from vpetl_ray.results.ranking import SPREADS
from vpetl_ray.spec.kinds import Flag, Number, Several, Text, Whole, Word
from vpetl_ray.spec.leaves import Given, Searched
from vpetl_ray.spec.section import Section
from vpetl_ray.spec.special_kinds import Budget, StartList, TrackingUri
from vpetl_ray.training.feature_store import DEFAULT_DISK_BYTES
from vpetl_ray.training.recipe import OPTIMIZERS, PRECISIONS, SCHEDULES
from vpetl_ray.tuning.budgeted_study import OVER_BUDGET, OverBudget
from vpetl_ray.tuning.domains import Domain, Fixed
from vpetl_ray.tuning.halving import PROMOTE, VARIANTS, Promote, Variant
from vpetl_ray.tuning.optuna_sampler import TOLD, Told
from vpetl_ray.tuning.placement import BACKENDS, PLACEMENTS, Backend, Placement
from vpetl_ray.tuning.samplers import SAMPLERS
from vpetl_ray.tuning.signs_of_life import STUCK_SECONDS
from vpetl_ray.tuning.start import START_CONFIGS

DEMO_WEIGHTS = "demo"

Auto: TypeAlias = Literal["auto"]


class DataSection(Section):
    """Which videos, what of each is stored, and what the network sees of it."""

    source: Annotated[str, Given(Word(options=tuple(SOURCES)))] = Field(
        default="demo",
        description="demo: handwriting in motion, made on the spot. folder: class/video files. "
        "csv: a file with the columns path, label and, if you like, split. hmdb51, ssv2, "
        "cifar100, svhn, food101: as published; a picture is a video of one frame.",
    )
    path: Annotated[str | None, Given(Text(what="a folder", nullable=True))] = Field(
        default=None,
        description="The data set's folder, or the csv file; a relative one is looked for "
        "beside the spec file.",
    )
    split: Annotated[int | None, Given(Whole(low=1, high=3, nullable=True))] = Field(
        default=None, description="Which of the official splits of hmdb51. Default 1."
    )
    outside_paths: Annotated[bool, Given(Flag())] = Field(
        default=False,
        description="Whether videos may lie outside of the folder: by a link in it or, in a csv "
        "file, by `..` or a full path. Not of pictures.",
    )
    num_classes: Annotated[int | None, Given(Whole(low=2, high=100_000, nullable=True))] = Field(
        default=None, description="Number of classes; by default counted in the data."
    )
    frames: Annotated[int | None, Given(Whole(low=1, high=512, nullable=True))] = Field(
        default=None, description="Frames in a clip. Default 8; pictures 1."
    )
    stride: Annotated[int | None, Given(Whole(low=1, high=512, nullable=True))] = Field(
        default=None,
        description="Distance between two frames of a clip in the video. Default 2; the demo 1.",
    )
    size: Annotated[int | None, Given(Whole(low=8, high=2048, nullable=True))] = Field(
        default=None,
        description="Height and width of the network's input in pixels. Default 224; the demo 32.",
    )
    short_side: Annotated[int | None, Given(Whole(low=8, high=2048, nullable=True))] = Field(
        default=None,
        description="Shorter side of a stored clip. Default size x 256/224 where crops are random.",
    )
    sampling: Annotated[str | None, Given(Word(options=("dense", "uniform"), nullable=True))] = (
        Field(
            default=None,
            description="dense: a run of frames from the centre. uniform: spread over the video. "
            "Default dense; ssv2 uniform.",
        )
    )
    train_crop: Annotated[str | None, Given(Word(options=("random", "centre"), nullable=True))] = (
        Field(
            default=None,
            description="random: Video Swin's resized crops. centre: the same view in every epoch.",
        )
    )
    flip: Annotated[float | None, Given(Number(low=0, high=1, nullable=True))] = Field(
        default=None,
        description="Probability of a mirrored clip in training. Default 0.5; the demo, ssv2, "
        "svhn 0.",
    )
    views: Annotated[int | Literal["free"], Given(Whole(low=1, high=1000, words=(FREE,)))] = Field(
        default=DEFAULT_VIEWS,
        description="Views that crops and flips draw of a clip in training: one an epoch, then "
        "again from the first, the same for all trials, so that what frozen layers make of them is "
        "computed once. free: a new one in every epoch. Without crops and flips there is one.",
    )
    test_segments: Annotated[int | None, Given(Whole(low=1, high=32, nullable=True))] = Field(
        default=None,
        description="Clips along a test video that are stored for multi-view figures. "
        "Default 1; in finetune 4, where the videos have more to show than one clip.",
    )
    test_crops: Annotated[int | None, Given(Whole(low=1, high=16, nullable=True))] = Field(
        default=None,
        description="Crops along the longer side in multi-view figures. Default 3.",
    )
    val_share: Annotated[float, Given(Number(above=0, below=0.5))] = Field(
        default=0.1,
        description="Share of the training videos held out where there is no validation split.",
    )
    split_seed: Annotated[int, Given(Whole(low=0, high=2**32 - 1))] = Field(
        default=0, description="Which videos are held out."
    )
    max_skipped_share: Annotated[float, Given(Number(low=0, below=1))] = Field(
        default=0.05, description="Share of unreadable videos above which it is an error."
    )


class BackboneSection(Section):
    """The frozen network."""

    arch: Annotated[str, Given(Word(options=tuple(ARCHS)))] = Field(
        default="swin3d_nano", description="Name of the architecture."
    )
    weights: Annotated[str, Given(Text(what="'demo' or a file"))] = Field(
        default=DEMO_WEIGHTS,
        description="demo: the pretrained nano network that comes along; else a checkpoint file.",
    )


class TrainingSection(Section):
    """How every trial is trained."""

    learning_rate: Annotated[Domain, Searched(Number(above=0, high=1000))] = Field(
        description="Peak learning rate."
    )
    epochs: Annotated[Domain, Searched(Whole(low=1, high=100_000))] = Field(
        description="Passes over the training clips."
    )
    batch_size: Annotated[Domain, Searched(Whole(low=1, high=65_536))] = Field(
        description="Clips a step, over all workers of a group together."
    )
    optimizer: Annotated[Domain, Searched(Word(options=OPTIMIZERS))] = Field(
        default=Fixed(value="adamw"), description="The optimiser."
    )
    weight_decay: Annotated[Domain, Searched(Number(low=0))] = Field(
        default=Fixed(value=0.0), description="Decay of matrices; biases and norms never decay."
    )
    momentum: Annotated[Domain, Searched(Number(low=0, below=1))] = Field(
        default=Fixed(value=0.9), description="Of sgd."
    )
    schedule: Annotated[Domain, Searched(Word(options=SCHEDULES))] = Field(
        default=Fixed(value="one_cycle"), description="Learning rate over time."
    )
    warmup_epochs: Annotated[Domain, Searched(Number(low=0))] = Field(
        default=Fixed(value=0.0), description="Epochs of linear rise at the start."
    )
    label_smoothing: Annotated[Domain, Searched(Number(low=0, below=1))] = Field(
        default=Fixed(value=0.0), description="Probability given to the wrong classes together."
    )
    drop_path: Annotated[Domain, Searched(Number(low=0, below=1))] = Field(
        default=Fixed(value=0.0), description="Stochastic depth at the last block."
    )
    grad_clip: Annotated[Domain, Searched(Number(above=0, nullable=True))] = Field(
        default=Fixed(value=None), description="Largest norm of the gradient; null: any."
    )
    precision: Annotated[Domain, Searched(Word(options=PRECISIONS))] = Field(
        default=Fixed(value="fp32"), description="fp32, or bf16 under autocast."
    )
    compile: Annotated[bool, Given(Flag())] = Field(
        default=False,
        description="Compile the blocks: faster steps, after minutes for each new structure of a "
        "config. For large backbones and long trials; needs a C++ compiler on CPU.",
    )
    recompute: Annotated[bool, Given(Flag())] = Field(
        default=False,
        description="Run blocks anew in the backward pass: less memory, slower steps.",
    )
    eval_batch_size: Annotated[int, Given(Whole(low=1, high=65_536))] = Field(
        default=64, description="Clips a step where nothing is trained, a worker."
    )
    probe_epochs: Annotated[Domain, Searched(Whole(low=1, high=100_000))] = Field(
        default=Fixed(value=100),
        description="Epochs where only the classifier is trained: its features are computed once.",
    )
    probe_learning_rate: Annotated[Domain, Searched(Number(above=0, high=1000))] = Field(
        default=Fixed(value=3e-2),
        description="Peak learning rate where only the classifier is trained.",
    )


class BudgetSection(Section):
    """What a config may cost; nothing above it is ever trained."""

    trainable_params: Annotated[str | int | None, Given(Budget(nullable=True))] = Field(
        default=None,
        description="A count (5M, 120k, 45000) or a share of the backbone (2%); null: no limit.",
    )


class HalvingSection(Section):
    """Successive halving: trials are compared at rungs, and only the best are trained on."""

    rungs: Annotated[
        Literal["auto"] | tuple[int, ...],
        Given(Several(item=Whole(low=1, high=100_000), words=("auto",))),
    ] = Field(
        default="auto",
        description="Epochs at which trials are compared; auto: a sixteenth and a quarter of "
        "training.epochs.",
    )
    eta: Annotated[float, Given(Number(above=1, high=100))] = Field(
        default=2.0, description="Of the trials at a rung, the best 1 / eta go on."
    )
    variant: Annotated[Variant, Given(Word(options=VARIANTS))] = Field(
        default="promotion",
        description="promotion: every trial waits at a rung until it is among the best. stopping: "
        "it ends there at once if it is not.",
    )
    promote: Annotated[Promote, Given(Word(options=PROMOTE))] = Field(
        default="gain",
        description="Which are the best. gain: those that are expected to add most to the front "
        "for the time left, if it is more than a new trial would; samplers other than ehvi can't "
        "tell, and go by rank. rank: by non-dominated sorting.",
    )
    spread: Annotated[str, Given(Word(options=tuple(SPREADS)))] = Field(
        default="epsilon_net",
        description="Which of the trials that nothing beats come first: those that cover the "
        "front most evenly, by an epsilon-net or by crowding distance.",
    )


class SearchSection(Section):
    """How the space is searched."""

    trials: Annotated[int | None, Given(Whole(low=1, high=1_000_000, nullable=True))] = Field(
        default=None,
        description="Configs that are trained; infeasible ones do not count. Default 30; of a "
        "grid or list, all.",
    )
    sampler: Annotated[str, Given(Word(options=tuple(SAMPLERS)))] = Field(
        default="auto",
        description="Who proposes configs. auto: ehvi; with further objectives tpe. ehvi: by "
        "expected hypervolume improvement for the training time, with the parameters known. grid: "
        "every config of the space. list: exactly those of start, in their order.",
    )
    over_budget: Annotated[OverBudget, Given(Word(options=OVER_BUDGET))] = Field(
        default="repair",
        description="What becomes of a proposal over the budget: its widths are shrunk until it "
        "fits, or another one is asked for.",
    )
    start: Annotated[tuple[Any, ...], Given(StartList())] = Field(
        default=tuple(START_CONFIGS),
        description="Configs tried first: names of known ones, or mappings with a name, "
        "petl and training values. But in a list, the linear probe is always one, and what is not "
        "in the space is left out.",
    )
    only: Annotated[
        tuple[str, ...] | None, Given(Several(item=Text(what="a name"), nullable=True))
    ] = Field(default=None, description="Of a list: train these alone, by name; null: all.")
    told: Annotated[Told, Given(Word(options=TOLD))] = Field(
        default="extrapolated",
        description="What Optuna's samplers are told of a trial that halving has not trained to "
        "its end: the final accuracy that its early one predicts; its rung's; that it was pruned; "
        "or each rung's in a model of its own.",
    )
    halving: HalvingSection | None = Field(
        default=None,
        description="Stop the worst trials early; null: train each to its end.",
    )
    test: Annotated[Literal["front", "all"], Given(Word(options=("front", "all")))] = Field(
        default="front",
        description="What is measured on the test split at the end: the front, or all that was "
        "trained to its end.",
    )
    max_minutes: Annotated[float | None, Given(Number(above=0, nullable=True))] = Field(
        default=None, description="No trial is started after this many minutes; null: no limit."
    )
    max_rejects: Annotated[int, Given(Whole(low=1, high=1_000_000))] = Field(
        default=500,
        description="Infeasible or repeated proposals in a row that mean the space is exhausted.",
    )


class ResourcesSection(Section):
    """What a search uses of the machine or cluster."""

    groups: Annotated[Auto | int, Given(Whole(low=1, high=10_000, words=("auto",)))] = Field(
        default="auto", description="Trials at a time, each in a worker group; auto: what fits."
    )
    workers_per_group: Annotated[int, Given(Whole(low=1, high=10_000))] = Field(
        default=1, description="Processes that train one trial together (DDP)."
    )
    cpus_per_worker: Annotated[int, Given(Whole(low=1, high=1024))] = Field(
        default=1, description="CPU cores, and threads, of a worker."
    )
    gpus_per_worker: Annotated[Auto | float, Given(Number(low=0, high=1, words=("auto",)))] = Field(
        default="auto",
        description="GPUs of a worker; auto: 1 where the cluster has any. A share, like 0.25, lets "
        "as many groups of one worker train on one GPU; they must fit into its memory together.",
    )
    placement: Annotated[Placement, Given(Word(options=PLACEMENTS))] = Field(
        default="pack",
        description="Workers of a group on few nodes or on many; strict: exactly one, or one each.",
    )
    backend: Annotated[Backend, Given(Word(options=BACKENDS))] = Field(
        default="auto",
        description="What workers of a group talk through; auto: NCCL between GPUs, else gloo.",
    )
    wait_minutes: Annotated[float, Given(Number(low=0, high=100_000))] = Field(
        default=0.0,
        description="On a cluster that brings nodes when they are asked for: how long to wait for "
        "the first. 0: what is there now must do.",
    )
    stuck_minutes: Annotated[float, Given(Number(above=0, high=100_000))] = Field(
        default=STUCK_SECONDS / 60.0,
        description="A worker that finishes no batch for so long counts as hung: its group is "
        "restarted, and the trial goes on from its last epoch.",
    )
    features_gb: Annotated[float, Given(Number(low=0, high=1_000_000))] = Field(
        default=DEFAULT_DISK_BYTES / 1e9,
        description="Disk space in the cache folder for what frozen layers make of the clips; what "
        "was not used for longest goes first. 0: kept in memory alone, by each worker.",
    )


class TrackingSection(Section):
    """Where MLflow keeps the search."""

    uri: Annotated[str, Given(TrackingUri())] = Field(
        default="auto",
        description="MLflow's tracking URI; auto: MLFLOW_TRACKING_URI, else a file in the results.",
    )
    experiment: Annotated[str, Given(Text(max_length=200))] = Field(
        default="vpetl_ray", description="MLflow experiment."
    )
