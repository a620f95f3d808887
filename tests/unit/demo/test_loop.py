"""A training stage can be stopped at any step and goes on as if nothing had happened."""

import pytest

torch = pytest.importorskip("torch")

from demo.loop import Schedule, Stage, averaged, seeded  # noqa: E402


def _stage(folder):
    torch.manual_seed(0)
    return Stage("small", folder, torch.nn.Linear(3, 2), Schedule(1e-2, 60.0))


def _train(stage, steps):
    for _ in range(steps):
        stage.tick(stage.network(torch.ones(4, 3)).square().mean())


def test_a_resumed_stage_has_the_same_weights_average_and_step(tmp_path):
    first = _stage(tmp_path)
    _train(first, 5)
    first.save()
    second = _stage(tmp_path)
    assert second.step == 5
    assert second.elapsed_s == pytest.approx(first.elapsed_s)
    for key, value in first.average.items():
        assert torch.equal(second.average[key], value)
        assert torch.equal(averaged(tmp_path / "small.pt")[key], value)
    _train(first, 3)
    _train(second, 3)
    assert torch.allclose(first.network.weight, second.network.weight, atol=1e-5)


def test_a_stage_that_has_used_up_its_time_does_nothing_when_it_is_run_again(tmp_path):
    stage = _stage(tmp_path)
    stage.elapsed_s = 60.0
    stage.save()
    again = _stage(tmp_path)
    again.run(loss=lambda: pytest.fail("trained on"), report=str, every=1)
    assert again.step == stage.step


def test_random_numbers_go_on_from_the_step_and_differ_by_stage():
    draws = {
        (number, step): (seeded(1, number, step).random(), float(torch.rand(1))) for number in (1, 2) for step in (0, 9)
    }
    assert len({a for a, _ in draws.values()}) == len({b for _, b in draws.values()}) == 4
    assert draws[2, 9] == (seeded(1, 2, 9).random(), float(torch.rand(1)))


def test_a_loss_that_is_no_number_ends_the_stage_and_leaves_what_was_saved(tmp_path):
    stage = _stage(tmp_path)
    _train(stage, 2)
    stage.save()
    with pytest.raises(FloatingPointError, match="small: the loss is nan at step 2"):
        stage.tick(stage.network.weight.sum() * float("nan"))
    assert _stage(tmp_path).step == 2


def test_kernels_trained_by_muon_go_on_after_a_resume_as_if_nothing_had_happened(tmp_path):
    images = torch.rand(2, 3, 6, 6)

    def stage():
        torch.manual_seed(0)
        network = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return Stage("kernels", tmp_path, network, Schedule(1e-2, 60.0), orthogonal_steps=True)

    def train(one, steps):
        for _ in range(steps):
            one.tick(one.network(images).square().mean())

    first = stage()
    before = first.network.weight.detach().clone()
    train(first, 3)
    first.save()
    second = stage()
    train(first, 2)
    train(second, 2)
    assert not torch.equal(before, first.network.weight)
    assert torch.allclose(first.network.weight, second.network.weight, atol=1e-5)
    assert torch.allclose(first.network.bias, second.network.bias, atol=1e-5)
