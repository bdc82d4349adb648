import pytest
from cli_helpers import load_script
from test_training_data import write_fashion


@pytest.mark.slow
def test_a_run_killed_in_both_trainings_ends_with_the_same_numbers(tmp_path):
    write_fashion(tmp_path / "data", train=48, test=16)
    words = (
        f"timm/test_resnet --dataset fashion-mnist --data {tmp_path / 'data'} --sparsity-train "
        "--penalty proximal --epochs 2 --batch-size 4 --fine-tune --fine-tune-epochs 2 --prune-ratio 0.5 "
        "--after-slimming both --ema-decay 0.9 --distill --save-dtype float16 --device cpu"
    )
    page, same = load_script("kill_and_resume").compare(words.split(), tmp_path)
    assert same, page
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `model")]
    assert [row[1].strip() for row in rows] == ["`model`", "`model/pruned-0.5`"]
    assert all("epoch 2, after step" in row[2] and row[7].strip() == "same" for row in rows)
