import pytest


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A training run from start to end: the network, its folder, and the metrics of each epoch."""
    from training_toys import SETTINGS, toy_data, toy_model

    from zoo_slim.training import fit

    folder = tmp_path_factory.mktemp("whole") / "run"
    model = toy_model()
    lines = fit(model, toy_data(), SETTINGS, folder)
    return model, folder, lines
