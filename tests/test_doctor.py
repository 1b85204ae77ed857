"""The doctor: what it finds is what is there, and what is missing comes with the way to get it."""

from __future__ import annotations

import json
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from test_video_render import render

from vzoom.cli import environment as doctor
from vzoom.cli import main
from vzoom.kernels import extension, gpu_check, registry
from vzoom.video import gpu_decoder

ROOT = Path(__file__).parents[1]


def test_packages_and_operations_are_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name in ("torch", "transformers", "av", "numpy"):
        assert found["packages"][name]["version"] == metadata.version(name)
    assert {"triton", "flash-attn", "nvidia-dali-cuda130", "trl"} <= set(found["packages"])
    expected = registry.chosen(found["device"])
    assert expected
    assert found["ops"] == {op: {"impl": impl, "why": why} for op, (impl, why) in expected.items()}
    assert found["cpu"]["torch_threads"] == torch.get_num_threads()
    assert found["device"] == ("cuda" if torch.cuda.is_available() else "cpu")


def declared(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The requirements of pyproject.toml by extra, made those of the installed metadata, which may be older."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    lines = [f'{line}; extra == "{extra}"' if extra else line for extra, several in extras.items() for line in several]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(
        doctor.metadata, "metadata", lambda name: SimpleNamespace(get_all=lambda field: list(extras)[1:])
    )
    return extras


def test_every_package_that_vzoom_can_use_is_looked_for_and_has_a_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = declared(monkeypatch)
    for_users = set(extras) - {"test", "dev", "docs"}
    names = {extra: {Requirement(line).name for line in extras[extra]} for extra in for_users}
    packages = doctor.examine()["packages"]
    for extra, wanted in names.items():
        assert {name for name, entry in packages.items() if extra in entry["extras"]} - {"lmms-eval"} == wanted
    assert {"pyarrow", "lazy-loader", "datasets", "peft", "accelerate", "tensorboard", "ray"} <= set(packages)
    assert "pytest" not in packages
    assert set(doctor.EXTRAS) == for_users - {""}
    own = set().union(*(wanted for extra, wanted in names.items() if extra != "lmms")) | {"lmms-eval"}
    assert set(doctor.PURPOSES) == own  # a new dependency must say what it is for
    assert all(entry["purpose"] for entry in packages.values())


def test_a_tree_that_was_never_installed_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", requires)
    assert doctor.examine()["missing"][0]["how"] == "pip install . in the source tree"
    assert main(["doctor"]) == 0
    assert "vzoom's own metadata" in capsys.readouterr().out


def test_what_is_missing_comes_with_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in ("trl", "triton", "flash-attn", "av", "pyarrow"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    missing = {m["what"]: m["how"] for m in doctor.examine()["missing"]}
    ways = list(missing.values())
    assert missing["trl, pyarrow (for training, and data on disk)"] == "pip install '.[train]' in the source tree"
    assert "pip install '.[gpu]' in the source tree" in ways
    assert missing["av (needed)"] == "pip install . in the source tree"
    assert not any("flash" in how for how in ways)  # builds for hours, never needed: nobody is sent there
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "not installed: decoding video (FFmpeg) (needed)" in out
    assert "not installed: conversations on disk, and benchmarks in Parquet files (extra train)" in out
    assert "pip install '.[train]' in the source tree" in out


def test_a_version_outside_the_declared_range_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["torch<2.14,>=2.9", "trl>=1; extra == 'train'"])
    monkeypatch.setattr(doctor.metadata, "version", lambda name: {"torch": "2.20.1+cu130", "trl": "1.2"}.get(name, "1"))
    packages = doctor.examine()["packages"]
    assert packages["torch"]["problem"] == "vzoom is tested with <2.14,>=2.9"
    assert packages["trl"]["problem"] is None


def test_a_broken_torch_is_reported_and_not_raised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = doctor.examine()
    assert "cannot be imported" in found["packages"]["torch"]["problem"]
    assert found["ops"] == {}
    assert main(["doctor"]) == 0
    assert "cannot be imported" in capsys.readouterr().out


def test_an_extension_of_another_version_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def native() -> Any:
        raise ImportError("_vzoom 0.0.1 does not belong to vzoom 0.1.0: run `pip install .` in the source tree again")

    monkeypatch.setattr(extension, "native", native)
    monkeypatch.setattr(doctor, "_ops", lambda device: {})
    found = doctor.examine()
    assert found["extension"]["path"] is None
    assert any("pip install ." in m["how"] for m in found["missing"])


@pytest.mark.parametrize(
    ("driver", "torch_cuda", "why", "how"),
    [
        (None, None, "no NVIDIA driver", "install its driver"),
        ("580.1", None, "built without CUDA", "pip uninstall torch"),
        ("580.1", "13.0", "torch sees no device", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_why_there_is_no_gpu(
    driver: str | None, torch_cuda: str | None, why: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_driver_version", lambda: driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    found = doctor.examine()
    assert why in found["gpu"]["why_none"]
    assert how in next(m["how"] for m in found["missing"] if m["what"] == "a GPU")


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    card = SimpleNamespace(name="Some Card", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: card)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "Some Card, 80.0 GiB, sm_90" in out
    assert "operations on cuda" in out
    assert "a GPU" not in out


def test_the_gpu_check_says_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["doctor", "--gpu", "--out", str(tmp_path / "gpu.json")]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vzoom doctor: no GPU was found here: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "gpu.json").exists()


def test_the_gpu_check_runs_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def check(arguments: list[str]) -> int:
        asked.append(arguments)
        return 1

    card = SimpleNamespace(name="Some Card", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: card)
    monkeypatch.setattr(gpu_check, "main", check)
    assert main(["doctor", "--gpu", "--out", "table.json"]) == 1  # a check failed
    assert asked == [["--save", "table.json"]]


@pytest.mark.needs_cuda
def test_the_kernels_on_a_real_gpu(tmp_path: Path) -> None:
    assert main(["doctor", "--gpu", "--out", str(tmp_path / "gpu.json")]) == 0
    assert json.loads((tmp_path / "gpu.json").read_text())["failed"] == {}


# ---------------------------------------------------------------- videos


def test_decoders_and_their_codecs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    video = json.loads(capsys.readouterr().out)["video"]
    assert {"h264", "hevc", "av1", "vp9", "mjpeg"} <= set(video["pyav"]["codecs"])
    if "why_not" in video["dali"]:
        assert "pip install '.[dali]'" in video["dali"]["why_not"]
    else:
        assert video["dali"]["codecs"] == ["mjpeg", "vp8", "vp9"]
    assert main(["doctor"]) == 0
    assert "h264 hevc av1" in capsys.readouterr().out


def test_who_would_decode_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = render(tmp_path / "a.mkv", pts=range(60), pix_fmt="yuv422p")
    assert main(["doctor", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["container"], found["codec"], found["pixel_format"]) == ("matroska,webm", "h264", "yuv422p")
    assert (found["width"], found["height"], found["fps"], found["stream"]) == (128, 96, 30.0, 0)
    assert (found["backend"], found["device"]) == ("pyav", "cuda:0" if torch.cuda.is_available() else "cpu")
    # On a machine whose GPU decodes, the reason is the file's own.
    monkeypatch.setattr(gpu_decoder, "why_no_decoder", lambda device: None)
    assert doctor.examine_video(str(path), "cuda:0")["notes"] == [
        "decoded on the CPU: the GPU does not decode h264 with pixels of yuv422p"
    ]
    assert main(["doctor", str(path)]) == 0
    assert "decoder       pyav (model on" in capsys.readouterr().out
    assert main(["doctor", str(tmp_path / "gone.mp4")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["doctor", str(path), "--gpu"]) == 2
