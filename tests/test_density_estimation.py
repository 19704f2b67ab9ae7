"""The table of held-out log-likelihoods."""

from skfokker.density_estimation import main


def test_a_fit_is_as_good_as_the_density_it_relaxes_to(capsys):
    results = main(["--quick"])["iris"]
    assert abs(results["march to Gaussian"][0] - results["Gaussian"][0]) < 1e-3
    assert results["mixture"][0] > results["Gaussian"][0]
    assert "iris" in capsys.readouterr().out
