"""What the built distribution holds."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_holds_every_module_under_one_name(tmp_path):
    source = tmp_path / "source"
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("zoo_slim", "architectures", "schemas"):
        shutil.copytree(ROOT / folder, source / folder, ignore=junk)
    for file in (*ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "setup.py", ROOT / "LICENSE"):
        shutil.copy(file, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "-w", str(tmp_path), str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("zoo_slim-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())

    modules = {f"zoo_slim/{path.relative_to(ROOT / 'zoo_slim').as_posix()}" for path in ROOT.glob("zoo_slim/**/*.py")}
    for folder in ("architectures", "schemas"):
        modules |= {f"zoo_slim/{folder}/{path.name}" for path in (ROOT / folder).glob("*.*") if path.is_file()}
    assert modules <= names
    assert "zoo_slim/py.typed" in names
    zoo = [path for path in ROOT.glob("zoo_slim/zoo/**/*") if path.is_file()]
    assert zoo
    assert {f"zoo_slim/{path.relative_to(ROOT / 'zoo_slim').as_posix()}" for path in zoo} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"zoo_slim"}
