"""Build all parts of a training run from the config, and check that they fit together."""

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from gantrain.augment.base import Augment
from gantrain.budget import count_steps, critic_schedule
from gantrain.callbacks.base import Callback, Callbacks
from gantrain.combinations import check_has_effect, check_parts, warn_of_user_code
from gantrain.command.typed import hyperparameters
from gantrain.config import Config, Node, RuntimeConfig
from gantrain.config_rules import check_batch_size
from gantrain.datasets.base import Dataset, ImageDataset
from gantrain.datasets.batches import Batches, FreshBatches, ImageBatches, Prefetcher, make_batches
from gantrain.datasets.holdout import hold_out
from gantrain.datasets.labels import Labels, count_classes, make_fake_labels
from gantrain.ema import EMA
from gantrain.engine.device import choose_device
from gantrain.engine.distributed import SINGLE_PROCESS, Processes
from gantrain.engine.heap import keep_freed_memory
from gantrain.engine.memory import require_memory
from gantrain.engine.runtime import choose
from gantrain.errors import ConfigError
from gantrain.evaluation.evaluator import Evaluator
from gantrain.evaluation.features.choice import choose_extractor, load_option
from gantrain.game import Objective
from gantrain.instantiate import make, make_all, takes_parameter
from gantrain.losses.base import Loss, RelativisticLoss
from gantrain.metrics.base import FeatureMetric, Metric
from gantrain.models.interface import takes_labels
from gantrain.models.latent import Latent
from gantrain.models.packing import pack
from gantrain.regularizers.base import Regularizer
from gantrain.schedules.apply import Schedules
from gantrain.schedules.base import Schedule
from gantrain.seeding import seed_everything
from gantrain.session.run import Run
from gantrain.tasks.job import Job
from gantrain.train import TrainState, train
from gantrain.updates import Logs
from gantrain.verdicts.base import Verdict

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """All parts of a training run, built but not started; no file is written yet.

    Attributes:
        fake_labels: from (n, the labels of the real batch) to labels of n generated samples; None: unconditional.
    """

    run: Run
    callbacks: Callbacks
    batches: Batches
    schedules: Schedules
    fake_labels: Callable[[int, Labels], Labels] | None

    def __call__(self, callbacks: Sequence[Callable[[TrainState, Logs], None]]) -> None:
        """Train from the current step of the state to the last step of the run."""
        run, config = self.run, self.run.config
        averaging = [run.processes.average_logs] if run.processes.world_size > 1 else []
        if run.device.type == "cpu":
            keep_freed_memory()
        with run.runtime.threaded():
            train(
                *(run.state, self.batches, run.latent, run.objective),
                steps=run.steps,
                n_critic=critic_schedule(config.n_critic, config.critic_warmup),
                seed=config.seed,
                device=run.device,
                first="generator" if config.first == "generator" else "discriminator",
                generator_batch_multiple=config.generator_batch_multiple,
                fake_labels=self.fake_labels,
                schedules=self.schedules,
                accumulate=config.accumulate,
                ema=run.ema,
                callbacks=[*averaging, *callbacks],
                precision=run.runtime.run,
                accelerate=run.runtime.accelerate(run.state),
            )


def assemble(job: Job, config: Config, processes: Processes = SINGLE_PROCESS) -> Training:
    """Build the parts that the config names, and load the data.

    Args:
        processes: the processes that train the run; each of them calls this function.

    Raises:
        UserError: the config or the data is wrong.
    """
    with processes.raise_on_all_ranks():
        check_batch_size(config, processes.world_size)
        device = choose_device(config.runtime.device)
        objective, ema = build_objective(config), build_ema(config)
        metrics, callbacks = build_metrics(config.metric), build_callbacks(config.callback)
        verdicts = cast(dict[str, Verdict], make_all("verdict", config.verdict, Verdict))
        latent, dataset = build_latent(config.latent), build_dataset(config.dataset)
        require_memory("batch_size", config.batch_size, [dataset.image_shape] * 2 + [(latent.z_dim,)], device)
        state = build_state(config, dataset, latent, device)
        parts = [objective.loss, latent, *objective.regularizers.values(), *objective.augment.values()]
        runtime = choose(
            *(config.runtime, device, state, [*parts, *callbacks]),
            batch_size=config.batch_size // processes.world_size // config.accumulate,
            num_processes=processes.world_size,
        )
        runtime.prepare(state)
        processes.split_batches(config.batch_size, state)
        if processes.world_size > 1 and processes.is_main:
            warn_of_user_code([state.G, state.D, *parts], processes.world_size)
        check_parts(state.G, state.D, objective, config, dataset, warns=processes.is_main)
        schedules = build_schedules(config.schedule, state, objective, ema, device, captures=runtime.captures)
        count_steps(config, dataset.num_images)  # raises for epochs of a distribution, before minutes of decoding
    prepare_data(dataset, config.runtime, processes)
    evaluator = build_evaluator(config, metrics, dataset, device, processes)
    with processes.raise_on_all_ranks():
        batches = build_batches(config, dataset, device, processes, labels=uses_labels(state))
        class_counts = count_classes(dataset) if uses_labels(state) else None
        steps = count_steps(config, dataset.num_images)
    run = Run(
        name=job.name,
        folder=job.folder,
        config=config,
        state=state,
        dataset=dataset,
        latent=latent,
        objective=objective,
        runtime=runtime,
        data_location=batches.data_location,
        steps=steps,
        evaluator=evaluator,
        hyperparameters=hyperparameters(config, job.choices, job.typed),
        ema=ema,
        typed=job.typed,
        command=job.resume_command,
        processes=processes,
        class_counts=class_counts,
        verdicts=verdicts,
    )
    fake_labels = make_fake_labels(config.fake_labels, class_counts, device) if class_counts else None
    active = [callback for callback in callbacks if processes.is_main or callback.shared]
    return Training(run, Callbacks(run, active), batches, schedules, fake_labels)


def uses_labels(state: TrainState) -> bool:
    """Return whether a network takes or predicts labels."""
    return takes_labels(state.G) or takes_labels(state.D) or hasattr(state.D, "num_aux_classes")


def prepare_data(dataset: Dataset, runtime: RuntimeConfig, processes: Processes) -> None:
    """Decode the images if they are not cached yet: local rank 0 of each machine, before the others load the cache."""
    for is_turn in (processes.local_rank == 0, processes.local_rank > 0):
        with processes.raise_on_all_ranks():
            if is_turn:
                dataset.prepare(num_workers=runtime.num_workers)
                if dataset.held_out is not None:
                    dataset.held_out.prepare(num_workers=runtime.num_workers)


def build_batches(
    config: Config, dataset: Dataset, device: torch.device, processes: Processes, *, labels: bool
) -> ImageBatches | Prefetcher | FreshBatches:
    """Make the batches of this rank, and warn if there are fewer images than a batch has."""
    if isinstance(dataset, ImageDataset) and config.batch_size > dataset.num_images and processes.is_main:
        logger.warning(
            "batch_size=%s: there are only %s images, so a batch contains some of them twice.",
            *(config.batch_size, f"{dataset.num_images:,}"),
        )
    return make_batches(
        dataset,
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
        mirror=config.horizontal_flip,
        labels=labels,
        data_location=cast(Any, config.runtime.data),
        rows=processes.rows(config.batch_size) if processes.world_size > 1 else None,
    )


def build_dataset(node: Node) -> Dataset:
    """Make the dataset, without its held-out part; images that must be decoded are loaded later, by prepare_data."""
    options = {key: value for key, value in node.items() if key != "holdout"}
    return hold_out(cast(Dataset, make("dataset", options, Dataset)), node.get("holdout"))


def build_latent(node: Node) -> Latent:
    """Make the distribution of z."""
    return cast(Latent, make("latent", node, Latent))


def build_objective(config: Config) -> Objective:
    """Make the loss, the regularizers and the augmentations."""
    loss = cast(Loss, make("loss", config.loss, (Loss, RelativisticLoss)))
    regularizers = cast(dict[str, Regularizer], make_all("regularizer", config.regularizer, Regularizer))
    check_has_effect(regularizers)
    return Objective(
        loss,
        regularizers,
        cast(dict[str, Augment], make_all("augment", config.augment, Augment)),
    )


def build_generator(node: Any, image_shape: Sequence[int], latent: Latent, num_classes: int | None) -> nn.Module:
    """Make G for samples of the data's shape."""
    shape = tuple(image_shape)
    made = make("model.generator", node, nn.Module, shape, latent.z_dim, num_classes=num_classes)
    return cast(nn.Module, made)


def build_discriminator(node: Any, image_shape: Sequence[int], num_classes: int | None, packing: int = 1) -> nn.Module:
    """Make D for inputs that are `packing` concatenated samples of the data's shape (PacGAN)."""

    def build_for(shape: tuple[int, ...]) -> nn.Module:
        return cast(nn.Module, make("model.discriminator", node, nn.Module, shape, num_classes=num_classes))

    try:
        return pack(build_for, tuple(image_shape), packing)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def build_state(config: Config, dataset: Dataset, latent: Latent, device: torch.device) -> TrainState:
    """Make the networks and optimizers; their initial values depend only on the config."""
    shape, num_classes = dataset.image_shape, dataset.num_classes
    for part in ("generator", "discriminator") if num_classes is None else ():
        if takes_parameter(f"model.{part}", config.model[part], "num_classes"):
            raise ConfigError(
                f"model.{part} is class-conditional, but dataset={dataset.name} has no labels: use labelled data "
                "(digits, mnist, fashion_mnist, cifar10, a folder with a subfolder for each class), or an "
                "unconditional network such as network=dcgan."
            )
    # One key for each network, so that changing one does not change the initial weights of the other.
    seed_everything(config.seed, "weights", "G", device=torch.device("cpu"))
    G = build_generator(config.model["generator"], shape, latent, num_classes).to(device)
    seed_everything(config.seed, "weights", "D", device=torch.device("cpu"))
    D = build_discriminator(config.model["discriminator"], shape, num_classes, config.packing).to(device)
    options = {key: value for key, value in config.discriminator_optimizer.items() if value is not None}
    # Without a _target_, discriminator_optimizer overrides single options of the generator's optimizer.
    D_optimizer = options if "_target_" in options else config.optimizer | options
    for part, network in (("generator", G), ("discriminator", D)):
        check_classes(part, network, dataset)
    return TrainState(
        G=G,
        D=D,
        G_optimizer=build_optimizer("optimizer", config.optimizer, G),
        D_optimizer=build_optimizer("discriminator_optimizer", D_optimizer, D),
        G_ema=deepcopy(G).requires_grad_(False) if config.ema_halflife_images else None,
    )


def check_classes(part: str, network: nn.Module, dataset: Dataset) -> None:
    """Check that the data have labels for a network that takes or predicts them, with as many classes.

    Raises:
        ConfigError: they do not.
    """
    for attribute in ("num_classes", "num_aux_classes"):
        classes = getattr(network, attribute, None)
        if classes is not None and classes != dataset.num_classes:
            labels = f"{dataset.num_classes} classes" if dataset.num_classes else "no labels"
            raise ConfigError(
                f"model.{part}: {type(network).__module__}.{type(network).__name__} has {attribute}={classes}, but "
                f"dataset={dataset.name} has {labels}; use other data, or a network for it."
            )


def build_optimizer(path: str, node: Node, module: nn.Module) -> Optimizer:
    """Make an optimizer of the module's parameters."""
    if "betas" in node:
        # torch refuses an int as a beta, for example 0.
        node = node | {"betas": [float(beta) for beta in node["betas"]]}
    return cast(Optimizer, make(path, node, Optimizer, list(module.parameters())))


def build_ema(config: Config) -> EMA | None:
    """Make the EMA of G, or return None if the config has none."""
    if config.ema_halflife_images is None:
        return None
    return EMA(halflife_images=config.ema_halflife_images, rampup=config.ema_rampup)


def build_schedules(
    nodes: Node, state: TrainState, objective: Objective, ema: EMA | None, device: torch.device, *, captures: bool
) -> Schedules:
    """Make the schedules, and the rescaling of optimizers with lazy penalties.

    Args:
        captures: whether updates are captured as CUDA graphs.
    """
    schedules = cast(dict[str, Schedule], make_all("schedule", nodes, Schedule))
    return Schedules(state, objective, ema=ema, schedules=schedules, capture=device if captures else None)


def build_metrics(nodes: Node) -> dict[str, Metric | FeatureMetric]:
    """Make the metrics, by name."""
    return make_all("metric", nodes, (Metric, FeatureMetric))


def build_evaluator(
    config: Config,
    metrics: dict[str, Metric | FeatureMetric],
    dataset: Dataset,
    device: torch.device,
    processes: Processes,
) -> Evaluator:
    """Make the evaluator, with the extractors that the metrics need.

    Raises:
        ConfigError: the metrics compare with held-out images, but there are none.
    """
    if config.metric_split == "held_out" and metrics:
        if dataset.held_out is None:
            raise ConfigError(
                "metric_split=held_out: no images are held out; set dataset.holdout, for example dataset.holdout=0.05."
            )
        dataset = dataset.held_out
    own = {metric.extractor for metric in metrics.values() if isinstance(metric, FeatureMetric)}
    extractors = {name or "features": choose_extractor(features_node(config, name), dataset) for name in own}
    folder = None if config.statistics_dir is None else Path(config.statistics_dir).expanduser()
    return Evaluator(metrics, extractors, dataset, device=device, folder=folder, processes=processes)


def features_node(config: Config, name: str | None) -> Node:
    """Return the config of an extractor: that of the group `features`, or of the option that a metric names.

    If the group's option is the one that the metric names, its settings, such as the file of weights, hold for both.
    """
    if name is None:
        return config.features
    option = load_option(name)
    return config.features if config.features.get("_target_") == option["_target_"] else option


def build_callbacks(nodes: Node) -> list[Callback]:
    """Make the callbacks, in the order of the config."""
    made = make_all("callback", nodes, Callback)
    for name, callback in made.items():
        callback.name = name
    return list(made.values())
