"""The latent state model and perception: shapes, mirrors, likelihoods and divergences with known answers."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from meld_agents.nets.heads import GatedGaussianHead, GaussianHead, kl_normal, log_normal, mlp  # noqa: E402
from meld_agents.nets.images import ImageDecoder, ImageEncoder, halvings  # noqa: E402
from meld_agents.nets.latent_model import LatentStateModel  # noqa: E402
from meld_agents.nets.perception import CachedPerception, JointPerception, PerceptionSettings  # noqa: E402

SHAPES = [(64, 64, 3), (32, 32, 3), (64, 128, 3)]


def settings(**changes):
    values = {
        "filters": (4, 4, 8, 8),
        "feature_size": 16,
        "image_std": 0.1**0.5,
        "feature_std": 0.3,
        "decoded_frames": 0,
        "nonlinearity": "relu",
        "hidden": 32,
    }
    return PerceptionSettings(**(values | changes))


def model(**changes):
    torch.manual_seed(0)
    values = {"evidence": 5, "action": 2, "z1": 3, "z2": 4, "hidden": 16}
    return LatentStateModel(**(values | changes))


@pytest.mark.parametrize("shape", SHAPES)
def test_decoder_mirrors_encoder(shape):
    height, width, channels = shape
    encoder = ImageEncoder(shape, (4, 4, 8, 8), 16, "relu", linear_output=True)
    decoder = ImageDecoder(shape, (4, 4, 8, 8), 16, "relu")
    features = encoder(torch.rand(2, channels, height, width))
    assert features.shape == (2, 16)
    assert decoder(features).shape == (2, channels, height, width)


@pytest.mark.parametrize("size", [(48, 48), (64, 96), (4, 4)])
def test_odd_image_sizes_are_refused(size):
    with pytest.raises(ValueError, match="2\\^k"):
        halvings(*size)


def test_too_few_filters_are_refused():
    with pytest.raises(ValueError, match="at least 4 filters"):
        ImageEncoder((64, 64, 3), (4, 4), 16, "relu", linear_output=True)


def test_paper_architecture_has_the_published_layers():
    """Appendix A: 32, 64, 128, 256, 256 filters with kernels 5, 3, 3, 3, 4."""
    encoder = ImageEncoder((64, 64, 3), (32, 64, 128, 256), 256, "relu", linear_output=False)
    layers = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in layers] == [32, 64, 128, 256, 256]
    assert [m.kernel_size[0] for m in layers] == [5, 3, 3, 3, 4]


def test_perfect_images_have_the_known_log_likelihood():
    """σ² = 0.1 over 12,288 values gives +2855 nats a frame (released code, facts 2.2)."""
    frame = torch.rand(1, 64 * 64 * 3)
    assert log_normal(frame, frame, 0.1**0.5).item() == pytest.approx(2855, abs=1)


def test_perfect_rewards_have_the_known_log_likelihood():
    assert log_normal(torch.zeros(1, 1), torch.zeros(1, 1), 0.2).item() == pytest.approx(0.6905, abs=1e-4)


def test_kl_agrees_with_the_closed_form():
    mean, std = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 2.0]])
    expected = sum(0.5 * (s * s + m * m - 1 - math.log(s * s)) for m, s in [(1.0, 0.5), (-2.0, 2.0)])
    assert kl_normal(mean, std, torch.zeros(1, 2), torch.ones(1, 2)).item() == pytest.approx(
        expected, rel=1e-6
    )
    assert kl_normal(mean, std, mean, std).item() == pytest.approx(0.0, abs=1e-6)


def test_xavier_leaves_no_bias_and_stays_within_its_bound():
    net = mlp((10, 30, 5))
    assert all((layer.bias == 0).all() for layer in net if isinstance(layer, torch.nn.Linear))
    assert net[0].weight.abs().max() <= math.sqrt(6 / 40)


def test_initial_std_is_what_was_asked_for():
    head = GaussianHead(3, 2, 8, "relu", False, initial_std=0.05)
    assert torch.allclose(head(torch.zeros(1, 3))[1], torch.tensor(0.05), rtol=1e-3)


def test_a_closed_gate_remembers_exactly():
    head = GatedGaussianHead(3, 2, 8, "relu", False)
    with torch.no_grad():
        head.net[-1].bias[2:4] = -100.0
    previous = torch.randn(4, 2)
    assert torch.equal(head(torch.randn(4, 3), previous)[0], previous)


@pytest.mark.parametrize("gated", [False, True])
def test_whole_trials_and_single_steps_agree(gated):
    net = model(gated_memory=gated)
    evidence, actions, noise = torch.randn(2, 6, 5), torch.randn(2, 6, 2), torch.randn(2, 6, 7)
    whole = net.infer(evidence, actions, noise)
    step = net.first(evidence[:, 0], noise[:, 0])
    for t in range(1, 6):
        step = net.next(step.z2, actions[:, t - 1], evidence[:, t], noise[:, t])
        assert torch.allclose(step.belief, whole.belief[:, t], atol=1e-6)


def test_belief_knows_only_the_past():
    net = model()
    evidence, actions, noise = torch.randn(1, 6, 5), torch.randn(1, 6, 2), torch.randn(1, 6, 7)
    before = net.infer(evidence, actions, noise).belief
    evidence[:, 4], actions[:, 4] = 9.0, -9.0
    after = net.infer(evidence, actions, noise).belief
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4])


def test_first_prior_is_the_unit_gaussian():
    net = model()
    actions = torch.zeros(2, 3, 2)
    latents = net.infer(torch.randn(2, 3, 5), actions, torch.randn(2, 3, 7))
    expected = kl_normal(latents.z1_mean[:, 0], latents.z1_std[:, 0], torch.zeros(2, 3), torch.ones(2, 3))
    assert torch.allclose(net.kl(latents, actions)[:, 0], expected)


def test_a_subset_of_decoded_frames_is_unbiased():
    torch.manual_seed(0)
    perception = JointPerception((32, 32, 3), 7, settings(decoded_frames=3))
    frames = torch.randint(0, 256, (12, 32, 32, 3), dtype=torch.uint8)
    z, generator = torch.randn(12, 7), torch.Generator().manual_seed(1)
    some = torch.stack([perception.log_likelihood(frames, z, generator) for _ in range(400)])
    every = JointPerception.log_likelihood
    perception.settings = settings()
    whole = every(perception, frames, z, generator)
    assert abs(some.mean() - whole) < 4 * some.std() / 20


def test_autoencoder_learns_frames_and_its_features_are_standardised():
    torch.manual_seed(0)
    perception = CachedPerception((32, 32, 3), 2, 7, settings())
    rows = torch.arange(32)
    centres = np.random.default_rng(0).integers(6, 26, (64, 2))
    discs = [((rows[:, None] - y) ** 2 + (rows[None] - x) ** 2 < 20) for x, y in centres]
    frames = (torch.stack(discs).unsqueeze(-1) * torch.tensor([255, 80, 10])).to(torch.uint8)
    optimiser = torch.optim.Adam(perception.autoencoder_parameters(), lr=3e-3)
    losses = []
    for _ in range(200):
        loss = perception.autoencoder_loss(frames)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    perception.standardise(frames)
    features = perception.encode(frames)
    assert features.mean(0).abs().max() < 1e-3
    assert features.square().mean().sqrt().item() == pytest.approx(1.0, rel=1e-2)


def test_motion_is_the_change_since_the_last_frame():
    perception = CachedPerception((32, 32, 3), 2, 7, settings(motion_scale=2.0))
    features = torch.arange(8.0).reshape(1, 4, 2)
    starts = torch.tensor([[True, False, True, False]])
    motion = perception.with_motion(features, features.roll(1, 1), starts)[..., 2:]
    assert motion[0, :, 0].tolist() == [0.0, 4.0, 0.0, 4.0]


def test_inverse_dynamics_reach_the_encoder():
    perception = CachedPerception((32, 32, 3), 2, 7, settings(inverse_weight=1.0))
    windows = torch.randint(0, 256, (4, 3, 32, 32, 3), dtype=torch.uint8)
    actions = torch.rand(4, 3, 2)
    perception.inverse_losses(windows, actions)[1].backward()
    assert all(p.grad.abs().sum() > 0 for p in perception.encoder.parameters())
    actions[:, 2] = 9.0  # the last action is not looked at
    before = perception.inverse_losses(windows, actions)[1]
    actions[:, 2] = -9.0
    assert torch.equal(before, perception.inverse_losses(windows, actions)[1])
