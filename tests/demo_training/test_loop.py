"""A training goes on from its checkpoint, saves it whole, and follows its schedule. Needs torch."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def loop(torch):
    from demo_training import loop

    return loop


@pytest.fixture
def plan(loop, tmp_path):
    return loop.Plan(tmp_path / "scenes", tmp_path / "out", minutes=1e-4, start=None, peak_rate=0.1)


SHARDS = SimpleNamespace(refresh=lambda: 0)


def trained(loop, torch, plan, learn=None):
    """A network of two numbers that learns to be small."""
    network = torch.nn.Linear(1, 1)

    def square(batch, step, progress):
        loss = network(torch.full((1, 1), float(batch))).square().sum()
        loss.backward()
        return {"loss": float(loss.detach())}

    training = loop.Training(plan, network, [{"params": list(network.parameters())}])
    training.run(SHARDS, lambda rng: 1 + rng.random(), learn or square, 1.0)
    return training, network


def test_it_learns_until_the_time_is_used_up_and_leaves_a_checkpoint(loop, torch, plan, capsys):
    training, network = trained(loop, torch, plan)
    assert training.step >= 1
    assert training.progress >= 1
    state = torch.load(plan.last, weights_only=True)
    assert set(state) == {"model", "optimiser", "average", "step", "used_s"}
    assert (state["step"], state["used_s"]) == (training.step, training.used_s)
    assert all(torch.equal(state["model"][name], value) for name, value in network.state_dict().items())
    assert f"saved step={training.step}" in capsys.readouterr().out


def test_a_training_whose_time_is_used_up_does_not_go_on(loop, torch, plan):
    first, network = trained(loop, torch, plan)
    again, same = trained(loop, torch, plan)
    assert again.step == first.step
    assert all(torch.equal(same.state_dict()[name], value) for name, value in network.state_dict().items())


def test_with_more_time_it_goes_on_from_its_checkpoint(loop, torch, plan):
    first, _ = trained(loop, torch, plan)
    longer = replace(plan, minutes=first.used_s / 60 + 1e-4)
    steps = []

    def learn(batch, step, progress):
        steps.append((step, progress))
        return {}

    again, _ = trained(loop, torch, longer, learn)
    assert steps[0][0] == first.step
    assert 0 < steps[0][1] < 1
    assert again.used_s > first.used_s


def test_an_interrupted_save_leaves_the_checkpoint_before(loop, torch, plan, monkeypatch):
    training, _ = trained(loop, torch, plan)
    before = plan.last.read_bytes()

    def half(state, path):
        path.write_bytes(before[: len(before) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        training.save()
    assert plan.last.read_bytes() == before


def test_groups_learn_by_their_factor(loop, torch, plan):
    network = torch.nn.Linear(1, 1)
    groups = [{"params": [network.weight], "factor": 3.0}, {"params": [network.bias]}]
    loop.Training(plan, network, groups).run(SHARDS, lambda rng: None, lambda *given: {}, 1.0)
    first, second = torch.load(plan.last, weights_only=True)["optimiser"]["param_groups"]
    assert first["lr"] == pytest.approx(3 * second["lr"])


def test_the_average_follows_the_weights_ever_more_slowly(loop, torch):
    network = torch.nn.Linear(1, 1)
    average = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    with torch.no_grad():
        network.weight.fill_(1.0)
    moved = []
    for step in (1, 100, 10_000):
        before = float(average["weight"])
        loop.update_average(average, network, step)
        moved.append((float(average["weight"]) - before) / (1 - before))
    assert moved[0] > moved[1] > moved[2] > 0
    assert moved[2] == pytest.approx(0.002, rel=0.1)


def test_the_rate_warms_up_and_falls_to_a_hundredth(loop):
    assert loop.rate_at(0.0, 0) == pytest.approx(0.01)
    assert loop.rate_at(0.0, 99) == loop.rate_at(0.0, 5_000) == 1.0
    assert loop.rate_at(0.5, 5_000) == pytest.approx(0.505)
    assert loop.rate_at(1.0, 5_000) == loop.rate_at(1.2, 5_000) == pytest.approx(0.01)


def test_biases_norms_and_embeddings_do_not_decay(loop, torch):
    network = torch.nn.ModuleDict({"fc": torch.nn.Linear(2, 3), "embed": torch.nn.Embedding(4, 5)})
    decayed, others = loop.parameter_groups(network)
    assert [tuple(each.shape) for each in decayed["params"]] == [(3, 2)]
    assert {tuple(each.shape) for each in others["params"]} == {(3,), (4, 5)}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
