"""The committed modules of the contract are what its .proto files give today.

It runs the Makefile's own check, so that the compiler's command is spelled once.
"""

import os
import subprocess
from pathlib import Path


def test_generated_modules_are_fresh(root: Path) -> None:
    # A surrounding make hands down its flags and job server; this is a run of its own.
    environment = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    }
    check = subprocess.run(
        ["make", "verify-generated"], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_every_contract_file_has_its_modules(root: Path) -> None:
    folder = root / "proto" / "longwave" / "v1"
    contract = {path.stem for path in folder.glob("*.proto")}
    assert contract
    assert {path.name.removesuffix("_pb2.py") for path in folder.glob("*_pb2.py")} == contract
    assert {path.name.removesuffix("_pb2.pyi") for path in folder.glob("*_pb2.pyi")} == contract
