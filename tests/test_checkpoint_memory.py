"""Weights and KV pool are held against the memory that is free before anything is loaded, and loading takes no more."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import config_of, make_checkpoint, write_tokenizer

from vzoom.cli import main
from vzoom.engine import Engine
from vzoom.models import MemoryNeed, check_memory, check_pool, load_checkpoint
from vzoom.models.checkpoint import free_memory as module
from vzoom.models.checkpoint.free_memory import free_cpu_memory

GB = 10**9
CPU = torch.device("cpu")
# Qwen2.5-VL-7B: 8.29 G parameters, 28 layers, 4 key heads of 128.
SEVEN = MemoryNeed(
    num_weights=8_292_166_656, values_per_token=2 * 28 * 4 * 128, max_total_tokens=32768, max_sessions=1,
    dtype=torch.float32,
)  # fmt: skip


def need(**changes: Any) -> MemoryNeed:
    return MemoryNeed(**{**vars(SEVEN), **changes})


@pytest.mark.parametrize(
    ("wanted", "free", "told"),
    [
        (need(), 35, "of 35.0 GB that are free on cpu. What would fit: --max-total-tokens 15360, or --dtype bfloat16"),
        (need(), 24, "What would fit: --dtype bfloat16, or a smaller model"),
        (need(), 18, "What would fit: --dtype bfloat16 --max-total-tokens 24576, or a smaller model"),
        (need(max_sessions=8), 25, "8 conversations of 32768 tokens), of 25.0 GB that are free on cpu. What would fit: "
                                   "--dtype bfloat16 --max-sessions 4, or a smaller model"),
        (need(max_sessions=8, dtype=torch.bfloat16), 24, "What would fit: --max-sessions 3, or a smaller model"),
        (need(max_sessions=8, dtype=torch.bfloat16), 18, "--max-sessions 1 --max-total-tokens 24576, or a smaller"),
        (need(dtype=torch.bfloat16), 16, "What would fit: a smaller model"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_what_would(wanted: MemoryNeed, free: float, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_memory(wanted, "Qwen/Qwen2.5-VL-7B-Instruct", CPU, free=int(free * GB))
    text = str(caught.value)
    assert told in text
    assert text.startswith("Qwen/Qwen2.5-VL-7B-Instruct does not fit: in ")
    for flags in re.findall(r"(?:What would fit: |, or )((?:--[\w-]+ \w+ ?)+)", text):
        said = dict(re.findall(r"--([\w-]+) (\w+)", flags))
        changes = {name.replace("-", "_"): int(value) for name, value in said.items() if name != "dtype"}
        dtype = torch.bfloat16 if "dtype" in said else wanted.dtype
        check_memory(MemoryNeed(**{**vars(wanted), **changes, "dtype": dtype}), "m", CPU, free=int(free * GB))


def test_seven_billion_in_bfloat16_fit_in_24_gib() -> None:
    assert need(dtype=torch.bfloat16).weight_bytes == 16_584_333_312
    check_memory(need(dtype=torch.bfloat16), "m", CPU, free=22 << 30)
    check_memory(need(dtype=torch.bfloat16), "m", CPU, free=need(dtype=torch.bfloat16).weight_bytes + 1_879_048_192)
    with pytest.raises(ValueError, match="does not fit"):
        check_memory(need(dtype=torch.bfloat16), "m", CPU, free=need(dtype=torch.bfloat16).weight_bytes + 1_879_048_191)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("memory") / "m")


def test_loading_asks_before_it_reads(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    read: list[int] = []
    monkeypatch.setattr("vzoom.models.checkpoint.load._fill", lambda *_: read.append(1))
    # 3 layers, 2 key heads of 16, float32: 768 bytes for a token.
    num_weights = (model / "model.safetensors").stat().st_size // 4
    monkeypatch.setattr(module, "free_memory", lambda _: num_weights * 4 + 768 * 40_000)
    with pytest.raises(ValueError, match=r"3 conversations of 32768 tokens.*What would fit: --max-sessions 1, or"):
        load_checkpoint(str(model), device="cpu", dtype="float32", max_sessions=3)
    with pytest.raises(
        ValueError, match=r"1 conversation of 50000 tokens.*What would fit: --max-total-tokens 39936, or"
    ):
        load_checkpoint(str(model), device="cpu", dtype="float32", limits={"max_total_tokens": 50000})
    words = ["verify", "--model", str(model), "--dtype", "float32"]
    monkeypatch.setattr(module, "free_memory", lambda _: num_weights * 2 + 384 * 10_000)
    assert main(words) == 2
    assert "or --dtype bfloat16 --max-total-tokens 9216, or a smaller model" in capsys.readouterr().err
    assert not read


def test_a_pool_that_does_not_fit_beside_the_weights_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(str(model), device="cpu", dtype="float32")
    monkeypatch.setattr(module, "free_memory", lambda _: 768 * 4096 * 4)
    Engine(checkpoint, max_total_tokens=4096, max_sessions=4).close()
    with pytest.raises(ValueError, match=r"takes 16 MB, of 13 MB.*lower max_sessions \(--max-sessions\) or"):
        Engine(checkpoint, max_total_tokens=4096, max_sessions=5)
    with pytest.raises(ValueError, match=r"the KV pool of m takes 5.0 GB, of 4.0 GB that are free on cuda:0"):
        check_pool(5 * GB, "m", torch.device("cuda:0"), free=4 * GB)


# ---------------------------------------------------------------- what is free


def system(folder: Path, mine: str, available: int) -> tuple[Path, Path]:
    """/proc and /sys/fs/cgroup of a machine with so many bytes available."""
    proc, cgroups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {available // 1024} kB\nHugePages_Total:  0\n")
    (proc / "self" / "cgroup").write_text(mine)
    cgroups.mkdir()
    return proc, cgroups


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_free_memory_without_limits(tmp_path: Path) -> None:
    assert free_cpu_memory(*system(tmp_path / "a", "0::/user\n", 8 << 30)) == 8 << 30
    assert free_cpu_memory(tmp_path / "nothing", tmp_path) > 1 << 60  # not Linux
    assert 1 << 20 < module.free_memory(CPU) < 1 << 50


def test_the_tightest_cgroup_counts(tmp_path: Path) -> None:
    """Version 2: a limit on the parent, none on the group itself; file cache gives way, shared memory does not."""
    proc, cgroups = system(tmp_path, "0::/jobs/mine\n", 8 << 30)
    group(cgroups / "jobs" / "mine", memory__max="max", memory__current="5")
    group(
        cgroups / "jobs", memory__max=str(4 << 30), memory__current=str(3 << 30),
        memory__stat=f"anon 5\nfile {2 << 30}\nshmem {1 << 30}",
    )  # fmt: skip
    assert free_cpu_memory(proc, cgroups) == 2 << 30


def test_the_cgroup_of_a_container_is_at_the_root_of_its_mount(tmp_path: Path) -> None:
    """Version 1: the path is the host's and not there; the mount itself is the group."""
    proc, cgroups = system(tmp_path, "4:cpu:/x\n3:memory:/docker/0123\n", 8 << 30)
    group(
        cgroups / "memory", memory__limit_in_bytes=str(2 << 30), memory__usage_in_bytes=str(1 << 30),
        memory__stat="cache 1\ntotal_cache 4096\ntotal_shmem 1024",
    )  # fmt: skip
    assert free_cpu_memory(proc, cgroups) == (1 << 30) + 3072


# ---------------------------------------------------------------- what loading takes

_CHILD = """
import json, os, resource, sys
import torch, transformers
from transformers import AutoModelForImageTextToText, AutoTokenizer
from vzoom.models import load_checkpoint
load_checkpoint(sys.argv[2], device="cpu")  # what is loaded once and stays

def anonymous():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) * 1024

before = anonymous()
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
open("/proc/self/clear_refs", "w").write("5")  # VmHWM from here on
start = int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) * 1024
checkpoint = load_checkpoint(sys.argv[1], device="cpu", dtype=sys.argv[3])
peak = int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
print(json.dumps([peak - start, anonymous() - before, str(checkpoint.model.dtype)]))
"""


def loaded_in_a_child(model: Path, small: Path, dtype: str) -> tuple[int, int]:
    """Bytes of peak memory that loading took, and that it kept."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(model), str(small), dtype],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    peak, kept, used = json.loads(done.stdout.splitlines()[-1])
    assert used == f"torch.{dtype}"
    return peak, kept


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.25 GB in bfloat16, in shards."""
    from transformers import AutoModelForImageTextToText

    folder = tmp_path_factory.mktemp("wide")
    config = config_of("qwen2_5_vl", layers=6)
    for name, value in {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 64}.items():
        setattr(config.text_config, name, value)
    config.text_config.vocab_size = 20_000
    config.vision_config.out_hidden_size = 1024
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    model.save_pretrained(folder, max_shard_size="50MB")
    write_tokenizer(folder)
    return folder


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_go_to_their_place_without_a_second_copy(dtype: str, wide: Path, model: Path) -> None:
    (wide / "preprocessor_config.json").write_text((model / "preprocessor_config.json").read_text())
    shards = list(wide.glob("*.safetensors"))
    assert len(shards) > 3
    size = sum(shard.stat().st_size for shard in shards) * getattr(torch, dtype).itemsize // 2
    assert size > 200_000_000
    peak, kept = loaded_in_a_child(wide, model, dtype)
    assert peak <= 1.3 * size, (peak / size, kept / size)
    assert kept >= 0.95 * size  # they are in memory, not mapped


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_the_need_counts_what_the_model_has(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[MemoryNeed] = []
    monkeypatch.setattr("vzoom.models.checkpoint.load.check_memory", lambda need, *_: asked.append(need))
    folder = make_checkpoint(family, tmp_path)
    checkpoint = load_checkpoint(str(folder), device="cpu", dtype="float16", max_sessions=2)
    assert asked[0].weight_bytes == sum(one.nbytes for one in checkpoint.model.hf.parameters())
    with Engine(checkpoint, max_total_tokens=checkpoint.config.max_total_tokens, max_sessions=2) as engine:
        assert asked[0].pool_bytes == engine.pool.k_pages.nbytes + engine.pool.v_pages.nbytes
