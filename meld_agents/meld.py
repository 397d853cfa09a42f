"""MELD: meta-RL from images via latent state models (Zhao et al., CoRL 2020, Algorithms 1 and 2).

The agent treats the unknown task as part of a hidden state. A latent state model turns the evidence of
a trial (frames and rewards) into a belief, soft actor-critic acts on the belief, and the belief lives on
through all episodes of a trial.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meld_agents.autoencoding import Autoencoding
from meld_agents.episodes import EpisodeStore, Mixture, Sequences
from meld_agents.interface import Evidence, MakeEnv, Policy, Progress
from meld_agents.learner import Learner, Part
from meld_agents.meld_settings import MeldSettings, meld_settings
from meld_agents.nets.foresight import RewardForesight
from meld_agents.nets.heads import log_normal, mlp
from meld_agents.nets.latent_model import Latents, LatentStateModel
from meld_agents.nets.perception import CachedPerception, make_perception
from meld_agents.rollout import RandomPolicy
from meld_agents.sac import SAC, Transitions
from meld_agents.settings import to_mapping

#: Updates between two reports of progress during warm-up.
WARMUP_SLICE = 100


class MELD(Learner):
    """The agent; see ``interface.Agent`` for what its methods promise."""

    name = "meld"
    store: EpisodeStore
    #: Whether the belief lives on through the episodes of a trial, and rewards are evidence.
    meta = True

    def __init__(self, make_env: MakeEnv, settings: Mapping[str, Any], seed: int, device: str) -> None:
        super().__init__(make_env, seed, device)
        self.settings = self._checked(settings)
        self.observation_shape = self._env.single_observation_space.shape
        self._build_seeded()
        self.store = EpisodeStore(len(self.tasks))
        self._warmup_done = 0
        self._earlier_blocks = self._earlier_trials = 0  # what the first of two agents has lived

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
        self.reward_decoder = self._build_reward_decoder()
        self.foresight = RewardForesight(s.z2_size, features, self.action_size, s.hidden)
        self._modules = torch.nn.ModuleDict(
            {
                "perception": self.perception,
                "model": self.model,
                "reward_decoder": self.reward_decoder,
                "foresight": self.foresight,
            }
        ).to(self.device)
        self._autoencoding = Autoencoding(self.perception, s.autoencoding(), self.device)
        frozen = {id(p) for p in self._autoencoding.parameters}
        self._model_parameters = [p for p in self._modules.parameters() if id(p) not in frozen]
        self._model_optimiser = torch.optim.Adam(self._model_parameters, lr=s.model_learning_rate, fused=True)
        self.sac = self._build_sac()

    def _build_reward_decoder(self) -> torch.nn.Module:
        s = self.settings
        return mlp((self.model.latent_size, s.hidden, s.hidden, 1), s.nonlinearity)

    def _build_sac(self) -> SAC:
        belief, s = 2 * self.model.latent_size, self.settings
        return SAC(belief, self.action_size, s.sac(), self._generator, self.device)

    # -- settings ----------------------------------------------------------------------------------

    @classmethod
    def resolve(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings, defaults of the named ``base`` (``paper``, ``released``, ``small``) included.

        Raises:
            ValueError: an unknown key or base (with the nearest match), or a bad value.
        """
        return to_mapping(cls._checked(settings))

    @classmethod
    def _checked(cls, settings: Mapping[str, Any]) -> MeldSettings:
        return meld_settings(cls.name, settings)

    # -- meta-training (Algorithm 1) ---------------------------------------------------------------

    def meta_train(self, env_steps: int) -> Iterator[Progress]:
        """Warm-up, then rounds of collecting and training, until ``env_steps`` in total.

        Where a dense stage is set, a first agent that is shown the dense reward does so for as many steps;
        a second one then starts from scratch, is shown the reward that the environment gives, and has the
        first one's trials beside its own (paper, appendix C).
        """
        warm = self.settings.warmup_trials_per_task * len(self.tasks)
        while self.env_steps < env_steps:
            if self._in_dense_stage and self.env_steps >= self.settings.dense_stage_steps:
                self._begin_second_agent()
            missing = warm - (self.store.num_trials - self._earlier_trials)
            if missing > 0:
                losses = self._collect_warmup(missing)
            elif self._autoencoding.due:
                count = min(WARMUP_SLICE, self._autoencoding.due)
                losses = self._autoencoding.train(self.store, self._rng, count)
                self.updates += count
            elif self._warmup_done < self.settings.warmup_updates:
                count = min(WARMUP_SLICE, self.settings.warmup_updates - self._warmup_done)
                self._warmup_done += count
                losses = self._train(count, acting=False)
            else:
                losses = self._round()
            yield Progress(self.env_steps, self.updates, losses)

    @property
    def _in_dense_stage(self) -> bool:
        """Whether this is the first of two agents."""
        return self.settings.dense_stage_steps > 0 and not self._earlier_blocks

    def _begin_second_agent(self) -> None:
        """New networks; the trials lived so far become the earlier ones."""
        self._earlier_blocks, self._earlier_trials = self.store.num_blocks, self.store.num_trials
        self._warmup_done = self.rounds = 0
        self._build_seeded()

    def _round(self) -> dict[str, float]:
        """Collect with the present policy, then train model and actor-critic."""
        s = self.settings
        chosen = self._choose_tasks(s.collect_tasks)
        losses = self._collect(chosen, self.policy(len(chosen), explore=True, seed=self._draw_seed()))
        self.rounds += 1
        if self._autoencoding.refresh_due(self.rounds):
            losses |= self._autoencoding.refresh(self.store, self._rng)
            self.updates += s.autoencoder_refresh_updates
        return (
            losses | self._train(s.updates_per_round, acting=True) | {"store_bytes": float(self.store.nbytes)}
        )

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
        trials = self._live(chosen, policy, dense_evidence=self._in_dense_stage)
        self._autoencoding.encode_new(self.store)
        return {"collected_return": float(trials.reward_dense.sum((1, 2)).mean())}

    # -- model and actor-critic --------------------------------------------------------------------

    def _train(self, count: int, acting: bool) -> dict[str, float]:
        """``count`` model updates, and the actor-critic's on the beliefs that they inferred."""
        if not acting:
            return self._averaged(lambda: self._update_model()[0], count)
        if self.settings.actor_beliefs == "round":
            return self._train_in_turn(count)

        def update() -> dict[str, Tensor]:
            losses, transitions = self._update_model()
            for _ in range(self.settings.actor_updates_per_update):
                losses |= self.sac.update(self._pick(transitions))
            return losses

        return self._averaged(update, count)

    def _train_in_turn(self, count: int) -> dict[str, float]:
        """First all of the model's updates, then all of the actor-critic's, on what the former inferred."""
        inferred: list[Transitions] = []

        def update() -> dict[str, Tensor]:
            losses, transitions = self._update_model()
            inferred.append(transitions)
            return losses

        losses = self._averaged(update, count)
        pool, following = Transitions.joined(inferred), count * self.settings.actor_updates_per_update
        return losses | self._averaged(lambda: self.sac.update(self._pick(pool)), following, counted=False)

    def _update_model(self) -> tuple[dict[str, Tensor], Transitions]:
        """One gradient step on equation 5 (and foresight where set), over sequences of many tasks."""
        s = self.settings
        sampled = self.store.sample(
            self._rng,
            s.trials_per_update,
            s.trial_pairing,
            episodes=None if self.meta else 1,
            features=self.perception.cached,
            mixture=Mixture(self._earlier_blocks, s.earlier_share, s.rewarded_share),
        )
        shown = sampled.reward_dense if self._in_dense_stage else sampled.reward
        actions, rewards, dense = map(self._tensor, (sampled.action, shown, sampled.reward_dense))
        starts = self._tensor(sampled.episode_start)
        targets, features = self._perceive(sampled, starts)
        noise = self.model.noise(*rewards.shape, generator=self._generator, device=self.device)
        latents = self.model.infer(self._evidence(features, rewards, starts), actions, noise)

        z = latents.sample
        observed = self.perception.log_likelihood(targets.flatten(0, 1), z.flatten(0, 1), self._generator)
        reward_error = (self._predicted_rewards(z, actions) - dense)[~starts]
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
        transitions = self._transitions(latents, actions, dense, starts)
        return losses, self._looked_at(transitions, latents, features, actions)

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

    def _predicted_rewards(self, z: Tensor, actions: Tensor) -> Tensor:
        """The reward on arriving at each step ``(B, L)``, as z_t tells it."""
        return self.reward_decoder(z).squeeze(-1)

    def _transitions(self, latents: Latents, actions: Tensor, rewards: Tensor, starts: Tensor) -> Transitions:
        """Every step of every sequence; those across an episode's end only where credit crosses it."""
        belief = latents.belief.detach()
        paired = rewards[:, 1:] if self.settings.reward_timing == "next" else rewards[:, :-1]
        before, taken, after, ends = belief[:, :-1], actions[:, :-1], belief[:, 1:], starts[:, 1:]
        if self.settings.credit == "trial":
            # The action at an episode's end goes nowhere: whatever it is, the next episode begins.
            ignored = torch.rand(taken.shape, generator=self._generator, device=self.device) * 2.0 - 1.0
            taken = torch.where(ends.unsqueeze(-1), ignored, taken)
            return Transitions(*(x.flatten(0, 1) for x in (before, taken, paired, after)))
        inside = ~ends
        return Transitions(before[inside], taken[inside], paired[inside], after[inside])

    def _looked_at(
        self, transitions: Transitions, latents: Latents, features: Tensor, actions: Tensor
    ) -> Transitions:
        """The transitions as critic and actor look at them: beliefs to both."""
        return transitions

    def _pick(self, transitions: Transitions) -> Transitions:
        """A random batch of them, with replacement."""
        shape = (self.settings.actor_batch,)
        rows = torch.randint(len(transitions.reward), shape, generator=self._generator, device=self.device)
        return transitions.rows(rows)

    # -- acting (Algorithm 2) ----------------------------------------------------------------------

    def policy(self, num_trials: int, explore: bool, seed: int = 0) -> MeldPolicy:
        """The acting side with the present weights; ``explore=False`` takes the mean action."""
        return MeldPolicy(self, num_trials, explore, seed)

    # -- disk --------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, Part]:
        return {
            "modules": self._modules,
            "model_optimiser": self._model_optimiser,
            "sac": self.sac,
            "autoencoding": self._autoencoding,
        }

    def load(self, directory: Path) -> None:
        """Restores what ``save`` wrote, and encodes the episodes again.

        Raises:
            ValueError: episodes are missing or damaged, or the checkpoint is of other settings.
        """
        super().load(directory)
        self._autoencoding.encode_new(self.store)

    _COUNTS = (*Learner._COUNTS, "_warmup_done", "_earlier_blocks", "_earlier_trials")


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
        seen = self._actor_input(self._latents, features, starts)
        if self._explore:
            like = torch.randn(self._action.shape, generator=self._generator, device=agent.device)
            self._action, _ = agent.sac.actor.sample(seen, like)
        else:
            self._action = torch.tanh(agent.sac.actor(seen)[0])
        return self._action.cpu().numpy()

    def _actor_input(self, latents: Latents, features: Tensor, starts: Tensor) -> Tensor:
        """What the actor decides by, ``(n, ·)``: the belief."""
        return latents.belief

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
