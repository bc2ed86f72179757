"""The core imports and runs where Ray, W&B and pydantic are not installed: seen in a fresh interpreter."""

import json
import subprocess
import sys

OPTIONAL = ["ray", "wandb", "pydantic", "albumentations"]


def test_planning_and_statistics_run_without_torch_and_training_without_cluster_tracker_or_study_file():
    code = f"""
import importlib, json, pkgutil, sys

def modules_of(name):
    package = importlib.import_module(name)
    return [importlib.import_module(m.name).__name__ for m in pkgutil.iter_modules(package.__path__, name + ".")]

sys.modules.update(dict.fromkeys({OPTIONAL}))
names = modules_of("cxrdist.study") + modules_of("cxrdist.stats")
assert "torch" not in sys.modules
names += modules_of("cxrdist.learn")
print(json.dumps(names))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert {"cxrdist.learn.train", "cxrdist.study.folds", "cxrdist.stats.roc"} <= set(
        json.loads(result.stdout.splitlines()[-1])
    )
