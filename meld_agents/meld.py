"""MELD: meta-RL from images via latent state models (Zhao et al., CoRL 2020, Algorithms 1 and 2).

The agent treats the unknown task as part of a hidden state. A latent state model turns the evidence of
a trial (frames and rewards) into a belief, soft actor-critic acts on the belief, and the belief lives on
through all episodes of a trial.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from meld_agents.episodes import EpisodeStore, Pairing, Sequences
from meld_agents.interface import Evidence, MakeEnv, Policy, Progress
from meld_agents.nets.foresight import RewardForesight
from meld_agents.nets.heads import log_normal, mlp
from meld_agents.nets.latent_model import Latents, LatentStateModel
from meld_agents.nets.perception import (
    INVERSE_FRAMES,
    CachedPerception,
    PerceptionSettings,
    make_perception,
)
from meld_agents.rollout import RandomPolicy, live_trials
from meld_agents.sac import SAC, SacSettings, Transitions
from meld_agents.settings import ABOVE_ZERO, FINITE, check_ranges, from_mapping, suggestion, to_mapping


@dataclass(frozen=True)
class MeldSettings:
    """Every number MELD depends on. The defaults are the paper's (Section 4, Appendix A, Table 1).

    Where the paper is silent the released code's number stands (fact marked *released*).
    """

    # Latent state model
    filters: tuple[int, ...] = (32, 64, 128, 256)  # and a last layer of feature_size
    feature_size: int = 256
    z1_size: int = 32
    z2_size: int = 256
    hidden: int = 256
    nonlinearity: Literal["relu", "leaky_relu", "silu"] = "relu"
    layer_norm: bool = False
    gated_memory: bool = False  # deviation: the memory z2 moves by a learned gate

    # Perception
    perception: Literal["joint", "cached"] = "joint"  # cached is a deviation for small machines
    image_std: float = 0.1**0.5  # released
    feature_std: float = 0.3  # of standardised features and of states
    decoded_frames: int = 0  # frames decoded per update, 0 for all
    autoencoder_updates: int = 0  # before the latent model (cached only)
    autoencoder_batch: int = 96
    autoencoder_learning_rate: float = 1e-3
    autoencoder_refresh_rounds: int = 0  # train it on and encode anew every so many rounds, 0 for never
    autoencoder_refresh_updates: int = 0
    autoencoder_refresh_learning_rate: float = 1e-3
    inverse_weight: float = 0.0  # deviation: its features also tell the action between frames (cached only)
    motion_scale: float = 0.0  # deviation: features are joined by their change, scaled (cached only)

    # Evidence and likelihoods
    reward_input_scale: float = 1.0  # the released code repeats the reward 32 times
    reward_std: float = 0.2  # released
    reward_weight: float = 1.0  # equation 5; released: 10 to 16
    foresight_pairs: int = 0  # deviation: questions per step about rewards at other moments
    foresight_weight: float = 1.0

    # Optimisation of the model
    model_learning_rate: float = 1e-4
    gradient_clip: float | None = None
    trials_per_update: int = 12  # 512 steps of 41- to 51-frame trials
    trial_pairing: Pairing = "lived"  # released: independent

    # Actor-critic
    actor_hidden: tuple[int, ...] = (256, 256)
    actor_learning_rate: float = 3e-4
    discount: float = 0.99
    target_rate: float = 0.005  # released
    initial_temperature: float = 1.0  # released
    reward_scale: float = 1.0
    actor_batch: int = 512
    actor_updates_per_update: int = 1
    reward_timing: Literal["next", "arrival"] = "next"  # released: arrival (Q of b_t is paired with r_t)

    # Schedule
    warmup_trials_per_task: int = 2  # 60 trajectories of 30 tasks
    warmup_action_hold: int = 1
    warmup_updates: int = 1000
    collect_tasks: int = 20
    updates_per_round: int = 640

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    def sac(self) -> SacSettings:
        """The part that concerns the actor-critic."""
        return SacSettings(
            hidden=self.actor_hidden,
            learning_rate=self.actor_learning_rate,
            discount=self.discount,
            target_rate=self.target_rate,
            initial_temperature=self.initial_temperature,
            reward_scale=self.reward_scale,
        )

    def perceiving(self) -> PerceptionSettings:
        """The part that concerns perception."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(PerceptionSettings)}
        return PerceptionSettings(**shared)


_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("filters", "feature_size", "z1_size", "z2_size", "hidden"), (1, FINITE)),
    **dict.fromkeys(("decoded_frames", "autoencoder_updates"), (0, FINITE)),
    **dict.fromkeys(("autoencoder_refresh_rounds", "autoencoder_refresh_updates"), (0, FINITE)),
    **dict.fromkeys(("image_std", "feature_std", "reward_std"), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("autoencoder_learning_rate", "model_learning_rate"), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("autoencoder_refresh_learning_rate",), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("actor_learning_rate", "initial_temperature"), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("reward_scale", "gradient_clip"), (ABOVE_ZERO, FINITE)),
    **dict.fromkeys(("reward_input_scale", "reward_weight", "foresight_weight"), (0, FINITE)),
    **dict.fromkeys(("inverse_weight", "motion_scale"), (0, FINITE)),
    **dict.fromkeys(("foresight_pairs", "warmup_updates", "updates_per_round"), (0, FINITE)),
    **dict.fromkeys(("autoencoder_batch", "trials_per_update", "actor_hidden", "actor_batch"), (1, FINITE)),
    **dict.fromkeys(("actor_updates_per_update", "warmup_trials_per_task"), (1, FINITE)),
    **dict.fromkeys(("warmup_action_hold", "collect_tasks"), (1, FINITE)),
    **dict.fromkeys(("discount", "target_rate"), (0, 1)),
}

#: Named starting points; every other setting overrides them. ``paper`` is the defaults, ``released`` what
#: the authors' configuration files used for CheetahVel, ``small`` fits a CPU.
BASES: dict[str, dict[str, Any]] = {
    "paper": {},
    "released": {
        "filters": (64, 128, 256, 512),
        "feature_size": 512,
        "z1_size": 64,
        "z2_size": 32,
        "hidden": 512,
        "nonlinearity": "leaky_relu",
        "reward_input_scale": 32.0,
        "reward_weight": 16.0,
        "trials_per_update": 5,
        "trial_pairing": "independent",
        "actor_batch": 256,
        "reward_timing": "arrival",
        "warmup_trials_per_task": 20,
        "warmup_updates": 6000,
        "collect_tasks": 1,
        "updates_per_round": 40,
    },
    "small": {
        "filters": (8, 16, 32, 64),
        "feature_size": 64,
        "z1_size": 32,
        "z2_size": 64,
        "nonlinearity": "leaky_relu",
        "gated_memory": True,
        "perception": "cached",
        "autoencoder_updates": 2000,
        "autoencoder_refresh_rounds": 10,
        "autoencoder_refresh_updates": 100,
        "reward_input_scale": 5.0,
        "foresight_pairs": 5,
        "foresight_weight": 50.0,
        "model_learning_rate": 1e-3,
        "gradient_clip": 10.0,
        "trials_per_update": 24,
        "actor_learning_rate": 5e-4,
        "actor_batch": 256,
        "actor_updates_per_update": 4,
        "initial_temperature": 0.1,
        "discount": 0.9,
        "warmup_updates": 500,
        "collect_tasks": 30,
        "updates_per_round": 40,
    },
}

#: Updates between two reports of progress during warm-up.
WARMUP_SLICE = 100


class MELD:
    """The agent; see ``interface.Agent`` for what its methods promise."""

    name = "meld"
    #: Whether the belief lives on through the episodes of a trial, and rewards are evidence.
    meta = True

    def __init__(self, make_env: MakeEnv, settings: Mapping[str, Any], seed: int, device: str) -> None:
        self.settings = self._settings(settings)
        self.device = torch.device(device)
        self._make_env, self._env = make_env, make_env(1)
        self.observation_shape = self._env.single_observation_space.shape
        self.action_size = self._env.single_action_space.shape[0]
        self.tasks = list(self._env.task_set.train)

        self._rng = np.random.default_rng(np.random.SeedSequence(seed))
        self._generator = torch.Generator(self.device).manual_seed(int(self._rng.integers(2**62)))
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(self._rng.integers(2**62)))
            self._build()
        self.store = EpisodeStore(len(self.tasks))
        self.env_steps = self.updates = self.rounds = 0
        self._autoencoder_done = self._warmup_done = 0

    def _build(self) -> None:
        """Networks and optimisers; draws initial weights."""
        s = self.settings
        latent = s.z1_size + s.z2_size
        self.perception = make_perception(
            s.perception, self.observation_shape, self.action_size, latent, s.perceiving()
        )
        features = self.perception.feature_size
        evidence = features + 1 + int(self.meta)
        self.model = LatentStateModel(
            evidence,
            self.action_size,
            s.z1_size,
            s.z2_size,
            s.hidden,
            s.nonlinearity,
            s.layer_norm,
            s.gated_memory,
        )
        self.reward_decoder = mlp((latent, s.hidden, s.hidden, 1), s.nonlinearity)
        self.foresight = RewardForesight(s.z2_size, features, self.action_size, s.hidden)
        self._modules = torch.nn.ModuleDict(
            {
                "perception": self.perception,
                "model": self.model,
                "reward_decoder": self.reward_decoder,
                "foresight": self.foresight,
            }
        ).to(self.device)
        self._autoencoder_optimiser = None
        frozen: set[int] = set()
        if isinstance(self.perception, CachedPerception):
            own = self.perception.autoencoder_parameters()
            self._autoencoder_optimiser = torch.optim.Adam(own, lr=s.autoencoder_learning_rate, fused=True)
            frozen = {id(p) for p in own}
        self._model_parameters = [p for p in self._modules.parameters() if id(p) not in frozen]
        self._model_optimiser = torch.optim.Adam(self._model_parameters, lr=s.model_learning_rate, fused=True)
        self.sac = SAC(2 * latent, self.action_size, s.sac(), self._generator, self.device)

    # -- settings ----------------------------------------------------------------------------------

    @classmethod
    def _settings(cls, settings: Mapping[str, Any]) -> MeldSettings:
        values = dict(settings)
        base = values.pop("base", "paper")
        if base not in BASES:
            raise ValueError(f"agent {cls.name!r}: unknown base {base!r}{suggestion(str(base), list(BASES))}")
        return from_mapping(MeldSettings, BASES[base] | values, f"agent {cls.name!r}")

    @classmethod
    def resolve(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings, defaults of the named ``base`` (``paper``, ``released``, ``small``) included.

        Raises:
            ValueError: an unknown key or base (with the nearest match), or a bad value.
        """
        return to_mapping(cls._settings(settings))

    # -- meta-training (Algorithm 1) ---------------------------------------------------------------

    def meta_train(self, env_steps: int) -> Iterator[Progress]:
        """Warm-up, then rounds of collecting and training, until ``env_steps`` in total."""
        warm = self.settings.warmup_trials_per_task * len(self.tasks)
        while self.env_steps < env_steps:
            if self.store.num_trials < warm:
                losses = self._collect_warmup(warm - self.store.num_trials)
            elif self._autoencoder_due() > 0:
                losses = self._train_autoencoder(min(WARMUP_SLICE, self._autoencoder_due()))
                if not self._autoencoder_due():
                    self._encode_all(first=True)
            elif self._warmup_done < self.settings.warmup_updates:
                count = min(WARMUP_SLICE, self.settings.warmup_updates - self._warmup_done)
                self._warmup_done += count
                losses = self._train(count, acting=False)
            else:
                losses = self._round()
            yield Progress(self.env_steps, self.updates, losses)

    def _round(self) -> dict[str, float]:
        """Collect with the present policy, then train model and actor-critic."""
        s = self.settings
        chosen = self._choose_tasks(s.collect_tasks)
        losses = self._collect(chosen, self.policy(len(chosen), explore=True, seed=self._draw_seed()))
        self.rounds += 1
        if self._refresh_due():
            self._set_autoencoder_rate(s.autoencoder_refresh_learning_rate)
            losses |= self._train_autoencoder(s.autoencoder_refresh_updates)
            self._encode_all()
        return (
            losses | self._train(s.updates_per_round, acting=True) | {"store_bytes": float(self.store.nbytes)}
        )

    def _refresh_due(self) -> bool:
        every = self.settings.autoencoder_refresh_rounds
        return self._autoencoder_optimiser is not None and every > 0 and self.rounds % every == 0

    def _draw_seed(self) -> int:
        return int(self._rng.integers(2**31))

    def _choose_tasks(self, count: int) -> np.ndarray:
        """Indices of train tasks, without replacement as long as there are enough."""
        return self._rng.choice(len(self.tasks), count, replace=count > len(self.tasks))

    def _collect_warmup(self, missing: int) -> dict[str, float]:
        count = min(missing, self.settings.collect_tasks)
        chosen = (self.store.num_trials + np.arange(count)) % len(self.tasks)
        rng = np.random.default_rng(self._draw_seed())
        return self._collect(
            chosen, RandomPolicy(count, self.action_size, rng, self.settings.warmup_action_hold)
        )

    def _collect(self, chosen: np.ndarray, policy: Policy) -> dict[str, float]:
        if self._env.num_envs != len(chosen):
            self._env.close()
            self._env = self._make_env(len(chosen))
        trials = live_trials(self._env, policy, [self.tasks[i] for i in chosen], self._draw_seed())
        self.store.add(chosen, trials)
        self.env_steps += trials.action.shape[0] * trials.action.shape[1] * (trials.action.shape[2] - 1)
        if self.perception.cached and not self._autoencoder_due():
            self.store.cache_features(self._encode_numpy)
        return {"collected_return": float(trials.reward_dense.sum((1, 2)).mean())}

    # -- the frame autoencoder ---------------------------------------------------------------------

    def _autoencoder_due(self) -> int:
        if self._autoencoder_optimiser is None:
            return 0
        return self.settings.autoencoder_updates - min(
            self._autoencoder_done, self.settings.autoencoder_updates
        )

    def _train_autoencoder(self, count: int) -> dict[str, float]:
        assert isinstance(self.perception, CachedPerception) and self._autoencoder_optimiser
        total = torch.zeros((), device=self.device)
        for _ in range(count):
            loss = self._autoencoder_loss(self.perception)
            self._autoencoder_optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self._autoencoder_optimiser.step()
            total += loss.detach()
        self._autoencoder_done += count
        self.updates += count
        return {"autoencoder_loss": float(total) / max(count, 1)}

    def _set_autoencoder_rate(self, rate: float) -> None:
        assert self._autoencoder_optimiser
        for group in self._autoencoder_optimiser.param_groups:
            group["lr"] = rate

    def _autoencoder_loss(self, perception: CachedPerception) -> Tensor:
        count, weight = self.settings.autoencoder_batch, self.settings.inverse_weight
        if not weight:
            return perception.autoencoder_loss(self._tensor(self.store.sample_frames(self._rng, count)))
        sampled = self.store.sample_windows(self._rng, max(1, count // INVERSE_FRAMES), INVERSE_FRAMES)
        pixels, inverse = perception.inverse_losses(*map(self._tensor, sampled))
        return pixels + weight * inverse

    def _encode_all(self, first: bool = False) -> None:
        if first:
            assert isinstance(self.perception, CachedPerception)
            self.perception.standardise(self._tensor(self.store.sample_frames(self._rng, 2048)))
        self.store.cache_features(self._encode_numpy, again=True)

    def _encode_numpy(self, observations: np.ndarray) -> np.ndarray:
        return self.perception.encode(self._tensor(observations)).cpu().numpy()

    # -- model and actor-critic --------------------------------------------------------------------

    def _train(self, count: int, acting: bool) -> dict[str, float]:
        """``count`` model updates, each followed by actor-critic updates on the beliefs it inferred."""
        sums: dict[str, Tensor] = {}
        for _ in range(count):
            losses, transitions = self._update_model()
            if acting:
                for _ in range(self.settings.actor_updates_per_update):
                    losses |= self.sac.update(self._pick(transitions))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        self.updates += count
        return {name: float(value) / count for name, value in sums.items()}

    def _update_model(self) -> tuple[dict[str, Tensor], Transitions]:
        """One gradient step on equation 5 (and foresight where set), over sequences of many tasks."""
        s = self.settings
        sampled = self.store.sample(
            self._rng,
            s.trials_per_update,
            s.trial_pairing,
            episodes=None if self.meta else 1,
            features=self.perception.cached,
        )
        actions, rewards, dense = map(self._tensor, (sampled.action, sampled.reward, sampled.reward_dense))
        starts = self._tensor(sampled.episode_start)
        targets, features = self._perceive(sampled, starts)
        noise = self.model.noise(*rewards.shape, generator=self._generator, device=self.device)
        latents = self.model.infer(self._evidence(features, rewards, starts), actions, noise)

        z = latents.sample
        observed = self.perception.log_likelihood(targets.flatten(0, 1), z.flatten(0, 1), self._generator)
        reward_error = (self.reward_decoder(z).squeeze(-1) - dense)[~starts]
        rewarded = log_normal(
            reward_error.unsqueeze(-1), torch.zeros_like(reward_error.unsqueeze(-1)), s.reward_std
        )
        kl = self.model.kl(latents, actions).mean()
        elbo = observed + s.reward_weight * rewarded.mean() - kl
        losses = {
            "elbo": elbo,
            "observation_loglik": observed,
            "kl": kl,
            "reward_mse": reward_error.square().mean(),
        }
        loss = -elbo
        if s.foresight_pairs:
            error = self.foresight.error(
                latents.z2, features, actions, dense, starts, s.foresight_pairs, self._generator
            )
            losses["foresight_mse"] = error
            loss = loss + 0.5 * s.foresight_weight * error / s.reward_std**2
        self._model_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if s.gradient_clip is not None:
            losses["gradient_norm"] = torch.nn.utils.clip_grad_norm_(self._model_parameters, s.gradient_clip)
        self._model_optimiser.step()
        return losses, self._transitions(latents, actions, dense, starts)

    def _perceive(self, sampled: Sequences, starts: Tensor) -> tuple[Tensor, Tensor]:
        """What the model must explain, and the features it sees, each ``(B, L, ...)``."""
        if isinstance(self.perception, CachedPerception):
            features = self._tensor(sampled.features)
            features = self.perception.with_motion(features, features.roll(1, dims=1), starts)
            return features, features
        observations = self._tensor(sampled.observation)
        features = self.perception.encode(observations.flatten(0, 1))
        return observations, features.unflatten(0, observations.shape[:2])

    def _evidence(self, features: Tensor, rewards: Tensor, starts: Tensor) -> Tensor:
        """e_t = features, episode start, and (unless SLAC) the weighted reward."""
        parts = [features, starts.float().unsqueeze(-1)]
        if self.meta:
            parts.append(self.settings.reward_input_scale * rewards.unsqueeze(-1))
        return torch.cat(parts, -1)

    def _transitions(self, latents: Latents, actions: Tensor, rewards: Tensor, starts: Tensor) -> Transitions:
        """Every step of every sequence, except those across an episode's end."""
        inside = ~starts[:, 1:]
        belief = latents.belief.detach()
        paired = rewards[:, 1:] if self.settings.reward_timing == "next" else rewards[:, :-1]
        return Transitions(
            belief[:, :-1][inside], actions[:, :-1][inside], paired[inside], belief[:, 1:][inside]
        )

    def _pick(self, transitions: Transitions) -> Transitions:
        """A random batch of them, with replacement."""
        shape = (self.settings.actor_batch,)
        rows = torch.randint(len(transitions.reward), shape, generator=self._generator, device=self.device)
        return Transitions(*(field[rows] for field in transitions))

    def _tensor(self, array: np.ndarray | None) -> Tensor:
        assert array is not None
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    # -- acting (Algorithm 2) ----------------------------------------------------------------------

    def policy(self, num_trials: int, explore: bool, seed: int = 0) -> MeldPolicy:
        """The acting side with the present weights; ``explore=False`` takes the mean action."""
        return MeldPolicy(self, num_trials, explore, seed)

    # -- disk --------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """Weights, optimisers, generators and counts; episodes lie beside the folder, each block once."""
        state = {
            "modules": self._modules.state_dict(),
            "model_optimiser": self._model_optimiser.state_dict(),
            "autoencoder_optimiser": self._autoencoder_optimiser and self._autoencoder_optimiser.state_dict(),
            "sac": self.sac.state_dict(),
            "generator": self._generator.get_state(),
            "rng": self._rng.bit_generator.state,
            "counts": {name: getattr(self, name) for name in self._COUNTS},
            "episodes": self.store.save(directory.parent / "episodes"),
        }
        buffer = io.BytesIO()  # torch's own writer hides what the system said, a full disk for one
        torch.save(state, buffer)
        (directory / "agent.pt").write_bytes(buffer.getbuffer())

    def load(self, directory: Path) -> None:
        """Restores what ``save`` wrote.

        Raises:
            ValueError: episodes are missing or damaged, or the checkpoint is of other settings.
        """
        state = torch.load(directory / "agent.pt", map_location=self.device, weights_only=True)
        try:
            self._modules.load_state_dict(state["modules"])
            self.sac.load_state_dict(state["sac"])
        except RuntimeError as error:
            raise ValueError(f"{directory} was written with other settings: {error}") from error
        self._model_optimiser.load_state_dict(state["model_optimiser"])
        if self._autoencoder_optimiser:
            self._autoencoder_optimiser.load_state_dict(state["autoencoder_optimiser"])
        self._generator.set_state(state["generator"].cpu())
        self._rng.bit_generator.state = state["rng"]
        for name in self._COUNTS:
            setattr(self, name, state["counts"][name])
        self.store.load(directory.parent / "episodes", state["episodes"])
        if self.perception.cached and not self._autoencoder_due():
            self.store.cache_features(self._encode_numpy)

    _COUNTS = ("env_steps", "updates", "rounds", "_autoencoder_done", "_warmup_done")


class MeldPolicy:
    """Acts on beliefs, n trials at once (Algorithm 2)."""

    def __init__(self, agent: MELD, num_trials: int, explore: bool, seed: int) -> None:
        self._agent, self._count, self._explore = agent, num_trials, explore
        self._generator = torch.Generator(agent.device).manual_seed(seed)
        self.start_trial()

    def start_trial(self) -> None:
        """Forgets everything."""
        self._latents: Latents | None = None
        self._features: Tensor | None = None
        self._action = torch.zeros(self._count, self._agent.action_size, device=self._agent.device)

    @torch.no_grad()
    def act(self, evidence: Evidence) -> np.ndarray:
        """Updates the beliefs with the evidence and returns actions ``(n, A)`` float32."""
        agent = self._agent
        starts = agent._tensor(np.asarray(evidence.episode_start, bool))
        if starts.any():
            self._action = torch.zeros_like(self._action)  # no action led to a reset
            if not agent.meta:
                self._latents = None
        features = self._see(agent._tensor(evidence.observation), starts)
        e = agent._evidence(features, agent._tensor(np.asarray(evidence.reward, np.float32)), starts)
        noise = agent.model.noise(self._count, generator=self._generator, device=agent.device)
        if self._latents is None:
            self._latents = agent.model.first(e, noise)
        else:
            self._latents = agent.model.next(self._latents.z2, self._action, e, noise)
        belief = self._latents.belief
        if self._explore:
            like = torch.randn(self._action.shape, generator=self._generator, device=agent.device)
            self._action, _ = agent.sac.actor.sample(belief, like)
        else:
            self._action = torch.tanh(agent.sac.actor(belief)[0])
        return self._action.cpu().numpy()

    def _see(self, observation: Tensor, starts: Tensor) -> Tensor:
        """Features ``(n, F)``, their change since the last frame included where the agent has it."""
        perception = self._agent.perception
        features = perception.encode(observation)
        if not isinstance(perception, CachedPerception):
            return features
        previous = features if self._features is None else self._features
        self._features = features
        return perception.with_motion(features, previous, starts)

    def belief(self) -> np.ndarray:
        """b_t after the last evidence, ``(n, 2·(z1 + z2))`` float32."""
        assert self._latents is not None, "no evidence yet"
        return self._latents.belief.cpu().numpy()

    def imagine(self) -> np.ndarray:
        """What the belief's sample expects to see: frames ``(n, H, W, C)`` uint8, or states ``(n, S)``."""
        assert self._latents is not None, "no evidence yet"
        return self._agent.perception.imagine(self._latents.sample)
