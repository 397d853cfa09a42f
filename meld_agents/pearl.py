"""PEARL: probabilistic embeddings for actor-critic RL (Rakelly et al., ICML 2019; thesis, Section 5.2).

The unknown task is a latent variable z. An encoder turns a context, the transitions seen of a task, into a
belief over z; a policy conditioned on z acts as if z were true. z is drawn once per episode: from the prior
while exploring, from the posterior afterwards, so that exploring means to try what may be. The encoder learns
from the critic's error, and from a penalty for what it says beyond the prior.

Images are turned into features, which take the state's place everywhere. MELD's authors put their encoder in
front of PEARL (Zhao et al., 2020, Section 5.1) and released no code of it. Here the critics' error for the
observations they judge is all that trains this encoder: contexts, values and the policy see its features
without a gradient, and so does everything where a frame autoencoder gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meld_agents import interface
from meld_agents.autoencoding import Autoencoding
from meld_agents.interface import MakeEnv, Policy, Progress
from meld_agents.learner import Learner, Part
from meld_agents.nets.context_encoder import (
    ContextEncoder,
    Evidence,
    Gaussian,
    RecurrentEncoder,
    kl_to_prior,
)
from meld_agents.nets.perception import FrameAutoencoder, FrameEncoder
from meld_agents.pearl_settings import pearl_settings
from meld_agents.rollout import RandomPolicy
from meld_agents.sac import SAC, Transitions
from meld_agents.settings import to_mapping
from meld_agents.transitions import Batch, TransitionStore
from meld_agents.value_sac import ValueSAC

#: Updates between two reports of progress.
SLICE = 100


class PEARL(Learner):
    """The agent; see ``interface.Agent`` for what its methods promise."""

    name = "pearl"
    store: TransitionStore
    _COUNTS = (*Learner._COUNTS, "_due")

    def __init__(self, make_env: MakeEnv, settings: Mapping[str, Any], seed: int, device: str) -> None:
        """Builds the networks.

        Raises:
            ValueError: trials too short to adapt in, or images of a size that cannot be halved.
        """
        super().__init__(make_env, seed, device)
        self.settings = pearl_settings(self.name, settings)
        least = self.settings.exploration_episodes + 1
        if self._env.episodes_per_trial < least:
            raise ValueError(
                f"pearl adapts after {least - 1} episodes of exploration: give a trial at least {least} "
                f"(make: {{episodes_per_trial: {least}}}), got {self._env.episodes_per_trial}"
            )
        self.observation_shape = self._env.single_observation_space.shape
        self._build_seeded()
        self.store = TransitionStore(len(self.tasks))
        self._due = 0  # updates of this round that are still to be made

    def _build(self) -> None:
        """Networks and optimisers; draws initial weights."""
        s = self.settings
        self.perception = self._build_perception()
        self._autoencoding = Autoencoding(self.perception, s.autoencoding(), self.device)
        size = self.observation_shape[0] if self.perception is None else self.perception.feature_size
        self.observation_size = size  # of a state, or of the features in its place
        inputs = size * (1 + s.next_observation) + self.action_size + 1
        sizes = (inputs, s.latent_size, s.encoder_hidden, s.deterministic)
        recurrent = s.encoder == "recurrent"
        self.encoder = RecurrentEncoder(*sizes) if recurrent else ContextEncoder(*sizes, s.prior_is_factor)
        self.encoder.to(self.device)
        learned = list(self.encoder.parameters())
        if isinstance(self.perception, FrameEncoder):
            learned += self.perception.parameters()
        self._optimiser = torch.optim.Adam(learned, lr=s.learning_rate, fused=True)
        actor_critic = ValueSAC if s.actor_critic == "value" else SAC
        self.sac = actor_critic(size + s.latent_size, self.action_size, s.sac(), self._generator, self.device)

    def _build_perception(self) -> FrameEncoder | FrameAutoencoder | None:
        """What turns images into features; states are such already."""
        if len(self.observation_shape) == 1:
            return None
        height, width, channels = self.observation_shape
        sizes = self.settings.perceiving()
        if self.settings.perception == "joint":
            return FrameEncoder((height, width, channels), sizes).to(self.device)
        autoencoder = FrameAutoencoder((height, width, channels), sizes)
        autoencoder.add_inverse(self.action_size)
        return autoencoder.to(self.device)

    def _parts(self) -> dict[str, Part]:
        parts: dict[str, Part] = {"encoder": self.encoder, "optimiser": self._optimiser, "sac": self.sac}
        if self.perception is not None:
            parts |= {"perception": self.perception, "autoencoding": self._autoencoding}
        return parts

    def load(self, directory: Path) -> None:
        """Restores what ``save`` wrote, and encodes the episodes again where features are cached.

        Raises:
            ValueError: episodes are missing or damaged, or the checkpoint is of other settings.
        """
        super().load(directory)
        self._autoencoding.encode_new(self.store)

    @classmethod
    def resolve(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings, defaults of the named ``base`` (``paper``, ``sparse_point``, ``small``) included.

        Raises:
            ValueError: an unknown key or base (with the nearest match), or a bad value.
        """
        return to_mapping(pearl_settings(cls.name, settings))

    # -- meta-training (thesis, Algorithm 1) ---------------------------------------------------------

    def meta_train(self, env_steps: int) -> Iterator[Progress]:
        """Trials of every task, then rounds of collecting and training, until ``env_steps`` in total.

        A frame autoencoder is trained in between, on the frames of the first trials.
        """
        warm = self.settings.warmup_trials_per_task * len(self.tasks)
        while self.env_steps < env_steps or self._due:
            if self._due:
                count = min(SLICE, self._due)
                losses = self._averaged(self._update, count)
                self._due -= count
            elif self.store.num_trials < warm:
                count = min(warm - self.store.num_trials, len(self.tasks))
                next_ones = np.arange(self.store.num_trials, self.store.num_trials + count)
                losses = self._collect(next_ones, warm=True)
            elif self._autoencoding.due:
                count = min(SLICE, self._autoencoding.due)
                losses = self._autoencoding.train(self.store, self._rng, count)
                self.updates += count
            else:
                losses = self._begin_round()
            yield Progress(self.env_steps, self.updates, losses)

    def _begin_round(self) -> dict[str, float]:
        """Collects with the present policy; its updates are then due."""
        s = self.settings
        losses = self._collect(self._rng.integers(len(self.tasks), size=s.collect_tasks))
        self.rounds += 1
        self._due = s.updates_per_round
        if self._autoencoding.refresh_due(self.rounds):
            losses |= self._autoencoding.refresh(self.store, self._rng)
            self.updates += s.autoencoder_refresh_updates
        return losses

    def _collect(self, chosen: np.ndarray, warm: bool = False) -> dict[str, float]:
        """One trial each of so many tasks, lived as at meta-test, with the exploring policy."""
        chosen, policy = chosen % len(self.tasks), self._collector(len(chosen), warm)
        returns = self._live(chosen, policy).reward_dense.sum(2).mean(0)
        self._autoencoding.encode_new(self.store)
        return {
            "prior_return": float(returns[0]),
            "posterior_return": float(returns[-1]),
            "store_bytes": float(self.store.nbytes),
        }

    def _collector(self, count: int, warm: bool) -> Policy:
        """The exploring policy; random actions for warm-up if asked for, or if there are no features yet."""
        policy = self.policy(count, explore=True, seed=self._draw_seed())
        hold = self.settings.warmup_action_hold if warm else 0
        if self._autoencoding.due:
            hold = max(1, hold)
        if not hold:
            return policy
        return RandomPolicy(count, self.action_size, np.random.default_rng(self._draw_seed()), hold)

    def _update(self) -> dict[str, Tensor]:
        """One gradient step of everything, on transitions of several tasks."""
        s = self.settings
        ready = self._ready()
        tasks = ready[self._rng.integers(len(ready), size=s.tasks_per_update)]
        batch = self._sample_batch(tasks)
        context = self._sample_context(tasks, batch)
        belief, factors = self._infer(self._context(context))
        noise = torch.randn(belief.mean.shape, generator=self._generator, device=self.device)
        z = belief.sample(noise).unsqueeze(1).expand(-1, batch.reward.shape[1], -1)
        self._optimiser.zero_grad(set_to_none=True)
        kl = torch.zeros((), device=self.device)
        if not s.deterministic:
            kl = kl_to_prior(belief).sum()
            penalty = s.kl_weight * kl
            if s.unrewarded_kl_weight and factors is not None:
                penalty = penalty + s.unrewarded_kl_weight * self._unrewarded_kl(factors, context)
            penalty.backward(retain_graph=True)
        losses = self.sac.update(self._transitions(batch, z))  # the critics' error reaches both encoders
        self._optimiser.step()
        spread = belief.variance.mean().sqrt()
        return losses | {
            "kl": kl.detach() / len(tasks),
            "belief_std": spread,
            "belief_mean_size": belief.mean.abs().mean(),
        }

    def _ready(self) -> np.ndarray:
        """Tasks to learn from; where contexts must tell something, those that were ever rewarded."""
        rewarded = self.store.rewarded
        return rewarded if self.settings.context == "trial" and len(rewarded) else self.store.ready

    def _infer(self, context: Tensor) -> tuple[Gaussian, Evidence | None]:
        """The belief after a context, and its factors where it is a product."""
        if isinstance(self.encoder, RecurrentEncoder):
            return self.encoder(context), None
        factors = self.encoder.factors(context)
        return self.encoder.posterior(factors.total()), factors

    def _unrewarded_kl(self, factors: Evidence, context: Batch) -> Tensor:
        """How far what was not rewarded moves the belief by itself, summed over the tasks."""
        counts = self._tensor(context.reward == 0.0).unsqueeze(-1)
        alone = Evidence(factors.precision * counts, factors.weighted * counts).total()
        some = counts.any(-2).squeeze(-1)
        assert isinstance(self.encoder, ContextEncoder)
        return kl_to_prior(self.encoder.posterior(Evidence(*(field[some] for field in alone)))).sum()

    def _sample_batch(self, tasks: np.ndarray) -> Batch:
        s = self.settings
        if s.batch_of == "trajectories":
            return self.store.whole_episodes(self._rng, tasks, s.batch)
        return self.store.sample(self._rng, tasks, s.batch)

    def _sample_context(self, tasks: np.ndarray, batch: Batch) -> Batch:
        s = self.settings
        if s.context == "batch":
            return batch
        if s.context == "trial":
            return self.store.sample_episodes(self._rng, tasks, s.context_batch)
        if s.encoder == "recurrent":
            return self.store.first_episodes(self._rng, tasks, self._context_episodes(), s.context)
        episodes = None if s.posterior_in_context else s.exploration_episodes
        return self.store.sample(self._rng, tasks, s.context_batch, episodes, s.context)

    def _context_episodes(self) -> int:
        """Of how many whole episodes a context consists: at meta-test these are some, but never all."""
        if self.settings.posterior_in_context:
            return int(self._rng.integers(1, self._env.episodes_per_trial))
        return self.settings.exploration_episodes

    def _context(self, batch: Batch) -> Tensor:
        """Transitions as the encoder takes them, ``(M, N, inputs)``; the reward is the one that was given."""
        with torch.no_grad():
            parts = [
                self._features(batch.observation),
                *map(self._tensor, (batch.action, batch.reward[..., None])),
            ]
            if self.settings.next_observation:
                parts.append(self._features(batch.next_observation))
            return torch.cat(parts, -1)

    def _features(self, observed: np.ndarray) -> Tensor:
        """Features ``(M, N, F)`` of what the store gave, which are images, or features already."""
        given = self._tensor(observed)
        if self.perception is None or given.dtype != torch.uint8:
            return given
        return self.perception.encode(given.flatten(0, 1)).unflatten(0, given.shape[:2])

    def _transitions(self, batch: Batch, z: Tensor) -> Transitions:
        """What the actor-critic learns from: states joined with z, and the dense reward."""
        state = self._features(batch.observation)
        with torch.no_grad():
            next_state = self._features(batch.next_observation)
        action, reward = self._tensor(batch.action), self._tensor(batch.reward_dense)
        return Transitions(
            torch.cat((state, z), -1).flatten(0, 1),
            action.flatten(0, 1),
            reward.flatten(),
            torch.cat((next_state, z.detach()), -1).flatten(0, 1),
        )

    # -- acting --------------------------------------------------------------------------------------

    def _see(self, observation: np.ndarray) -> Tensor:
        """Features ``(n, F)`` of observations as an environment gives them."""
        given = self._tensor(observation)
        return given if self.perception is None else self.perception.encode(given)

    def policy(self, num_trials: int, explore: bool, seed: int = 0) -> PearlPolicy:
        """The acting side with the present weights; ``explore=False`` takes the mean action for its z."""
        return PearlPolicy(self, num_trials, explore, seed)


class PearlPolicy:
    """Acts by posterior sampling, n trials at once: one z for an episode (thesis, Algorithm 2)."""

    def __init__(self, agent: PEARL, num_trials: int, explore: bool, seed: int) -> None:
        self._agent, self._count, self._explore = agent, num_trials, explore
        self._generator = torch.Generator(agent.device).manual_seed(seed)
        self.start_trial()

    def start_trial(self) -> None:
        """Forgets everything: z comes from the prior again."""
        self._evidence: Any = None  # what the encoder knows of the episodes that have ended
        self._episodes = 0  # begun
        self._steps: list[Tensor] = []  # of this episode, (n, inputs) each
        self._last: tuple[Tensor, Tensor] | None = None  # observation and action, (n, ...) each
        self._z = torch.zeros(self._count, self._agent.settings.latent_size, device=self._agent.device)

    @torch.no_grad()
    def act(self, evidence: interface.Evidence) -> np.ndarray:
        """Adds the last step to the context, and returns actions ``(n, A)`` float32."""
        agent = self._agent
        observation = agent._see(evidence.observation)
        if np.all(evidence.episode_start):
            self._begin_episode()
        elif self._last is not None:
            reward = agent._tensor(evidence.reward).unsqueeze(-1)
            parts = [*self._last, reward]
            self._steps.append(torch.cat(parts + [observation] * agent.settings.next_observation, -1))
        action = self._act(torch.cat((observation, self._z), -1))
        self._last = (observation, action)
        return action.cpu().numpy()

    def _act(self, belief: Tensor) -> Tensor:
        if not self._explore:
            return torch.tanh(self._agent.sac.actor(belief)[0])
        shape = (self._count, self._agent.action_size)
        return self._agent.sac.actor.sample(belief, self._normal(shape))[0]

    def _begin_episode(self) -> None:
        self._take_in()
        self._last = None
        exploring = self._episodes < self._agent.settings.exploration_episodes
        self._z = (self._prior() if exploring else self._belief()).sample(self._normal(self._z.shape))
        self._episodes += 1

    def _take_in(self) -> None:
        """Adds the episode's steps to the context."""
        if self._steps:
            self._evidence = self._agent.encoder.extend(self._evidence, torch.stack(self._steps, 1))
            self._steps = []

    def _belief(self) -> Gaussian:
        if self._evidence is None:
            return self._prior()
        return self._agent.encoder.posterior(self._evidence)

    def _prior(self) -> Gaussian:
        """N(0, I); without a bottleneck, where nothing is sampled, the point 0 (released code)."""
        zeros = torch.zeros_like(self._z)
        return Gaussian(zeros, zeros if self._agent.settings.deterministic else torch.ones_like(zeros))

    def _normal(self, shape: tuple[int, ...] | torch.Size) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._agent.device)

    @torch.no_grad()
    def belief(self) -> np.ndarray:
        """Mean and standard deviation of z given the episodes that have ended, ``(n, 2 Z)`` float32."""
        mean, variance = self._belief()
        return torch.cat((mean, variance.sqrt()), -1).cpu().numpy()
