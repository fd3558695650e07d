"""What every door that trains does first: clips, backbone, cluster, and where MLflow keeps it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from vpetl_ray.data.clip_store import ClipStore
from vpetl_ray.data.config import DataConfig
from vpetl_ray.data.data_set import DataSet
from vpetl_ray.data.decode_pool import usable_cores
from vpetl_ray.data.demo import DEMO_CHECKPOINT
from vpetl_ray.data.prepare_store import prepare_store
from vpetl_ray.decode_words import DecodeWords, before_sentence, skipped_sentence
from vpetl_ray.errors import SearchError, SpecError
from vpetl_ray.results.tracking import RunStatus
from vpetl_ray.results.tracking_uri import store_in
from vpetl_ray.spec.search_spec import SearchSpec
from vpetl_ray.stage_display import StageDisplay
from vpetl_ray.training.model_facts import DataFacts
from vpetl_ray.tuning.claims_board import ClaimsBoard
from vpetl_ray.tuning.cluster import GroupPlan, all_nodes, free_nodes, plan_groups, ray_session
from vpetl_ray.tuning.fair_shares import plan_beside
from vpetl_ray.tuning.ray_decode import cluster_decoder
from vpetl_ray.tuning.trial_protocol import GroupSetup
from vpetl_ray.tuning.trial_runner import FineTuningSetup, fine_tuning_groups

FEATURE_FOLDER = "features"
"""Beside the clip stores, in the cache folder."""
SECONDS_FOR_TRACKING = 120.0
"""How long the end waits for MLflow to take what is still queued."""
SECONDS_FOR_TRACKING_KILLED = 10.0
"""The same where a signal ends it: who sends SIGTERM gives half a minute, often."""


def list_videos(data: DataConfig, display: StageDisplay) -> DataSet:
    """Find the videos, before anything that takes long is begun.

    Raises:
        DataError: they are not there, or lie otherwise than expected.
    """
    display.stage("finding the videos")
    return data.list_videos(num_processes=usable_cores())


def prepare_clips(
    data: DataConfig,
    display: StageDisplay,
    *,
    videos: DataSet | None = None,
    address: str | None = None,
) -> ClipStore:
    """Open the clip store, decoding what is missing, and say what is to be known about it.

    Args:
        data: which data set, and what of it is stored.
        display: shows how far it is.
        videos: what `list_videos` found, where it was called.
        address: of a Ray cluster to decode on, if it is larger than this machine.

    Raises:
        DataError: the videos are not there or cannot be read.
        SpecError: the cluster cannot be used.
    """
    display.stage("preparing the clips")
    words = DecodeWords()
    try:
        prepared = prepare_store(
            data,
            data_set=videos,
            make_decoder=cluster_decoder(address),
            progress=lambda state: display.progress(words(state)),
        )
    except SearchError as error:
        raise SpecError(str(error)) from error  # no results folder was created yet
    if prepared.progress.num_before:
        display.note(before_sentence(prepared.progress))
    for note in prepared.notes:
        display.note(note)
    store = prepared.store
    if store.skipped:
        display.note(skipped_sentence(store.skipped, store.manifest.num_videos))
    return store


def setup_groups(
    spec: SearchSpec,
    store: ClipStore,
    *,
    measured: tuple[str, ...] = (),
    profile: Path | None = None,
) -> GroupSetup:
    """Read the backbone's weights for the worker groups.

    Args:
        spec: of the search.
        store: the clips.
        measured: objectives that they measure of every trial.
        profile: a folder for the profile of the first trial; every node sees it.

    Raises:
        CheckpointError: they are not this architecture's.
    """
    weights = DEMO_CHECKPOINT if spec.uses_demo_weights else Path(spec.backbone.weights)
    setup = FineTuningSetup(
        arch=spec.arch,
        clip_store=str(store.path),
        view=spec.data_config().view_spec(),
        seed=spec.seed,
        measured=measured,
        facts=data_facts(spec),
        profile=None if profile is None else str(profile),
        feature_store=str(store.path.parents[1] / FEATURE_FOLDER),
        feature_disk_bytes=int(spec.resources.features_gb * 1e9),
    )
    return fine_tuning_groups(setup, weights)


def data_facts(spec: SearchSpec) -> DataFacts:
    """Gather what an adapter's user has to know of the data and the backbone."""
    data = spec.data_config().multi_view()
    clip, view = data.clip_spec(), data.view_spec()
    return DataFacts(
        weights=str(spec.backbone.weights),
        data=spec.data.source,
        clip={
            "frames": clip.frames,
            "stride": clip.stride,
            "short_side": clip.short_side,
            "sampling": clip.sampling,
        },
        size=view.size,
        segments=clip.test_segments,
        crops=view.test_crops,
    )


def connect(
    stack: ExitStack,
    spec: SearchSpec,
    address: str | None,
    *,
    at_most: int | None = None,
    shares: bool = False,
) -> GroupPlan:
    """Connect to the cluster until `stack` ends, and plan the groups that fit into it.

    Args:
        stack: ends the connection.
        spec: for its resources.
        address: of a Ray cluster, None for a private one.
        at_most: groups that could be given work.
        shares: whether it waits for its share of a cluster that other searches have filled.

    Raises:
        SpecError: there is no cluster, or no group fits into it.
    """
    wanted = spec.resources
    try:
        stack.enter_context(ray_session(address))
        grows = (address or os.environ.get("RAY_ADDRESS") or "local") != "local"
        others = ClaimsBoard().others() if shares and grows else []
        plan = plan_groups(
            all_nodes() if others else free_nodes(),
            num_groups=None if wanted.groups == "auto" else wanted.groups,
            at_most=at_most,
            workers_per_group=wanted.workers_per_group,
            cpus_per_worker=wanted.cpus_per_worker,
            gpus_per_worker=None if wanted.gpus_per_worker == "auto" else wanted.gpus_per_worker,
            placement=wanted.placement,
            backend=wanted.backend,
            grows=grows,
            wait_minutes=wanted.wait_minutes,
            stuck_seconds=60.0 * wanted.stuck_minutes,
        )
        return plan_beside(plan, others, all_nodes()) if others else plan
    except SearchError as error:
        raise SpecError(str(error)) from error  # nothing was created yet


def seconds_for_tracking(status: RunStatus) -> float:
    """How long to wait for MLflow at the end of a run."""
    return SECONDS_FOR_TRACKING_KILLED if status == "KILLED" else SECONDS_FOR_TRACKING


def tracking_store(spec: SearchSpec, directory: Path) -> tuple[str, str | None]:
    """Tracking URI and artifact location; by default a store in the results folder."""
    uri = spec.tracking.uri
    if uri == "auto":
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return (uri, None) if uri else store_in(directory)
