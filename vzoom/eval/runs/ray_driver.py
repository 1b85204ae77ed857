"""A run over the machines of a Ray cluster: one task a shard, each the ordinary command line (extra `ray`).

The cluster's machines must see the same paths: the benchmark's root, the model and the folder of the run.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...config import missing_extra


def run_on_ray(words: Sequence[str], *, num_shards: int, gpus: float) -> None:
    """Run every shard as a task of a Ray cluster. Returns when all are done.

    A shard that fails raises here. What the others did is kept, and the same command resumes.

    Args:
        words: a command line of `vzoom eval`, with `--ray N` in it.
        num_shards: tasks.
        gpus: per task; 0 runs on the CPU.

    Raises:
        ImportError: Ray is not installed. The message says how to get it.
        ValueError: no machine of the cluster has that many GPUs: the tasks would wait for ever.
    """
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "ray") from error
    if num_shards < 1:
        raise ValueError(f"--ray must be 1 or more, got {num_shards}")
    own = without_ray(words)
    if gpus < 0:
        raise ValueError(f"--gpus must be 0 or more, got {gpus:g}")
    if not ray.is_initialized():
        ray.init()
    most = max(node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"])
    if most < gpus:
        raise ValueError(f"--gpus {gpus:g}: the cluster's machines have {most:g} at most; --gpus 0 runs on the CPU")
    task = ray.remote(num_cpus=1, num_gpus=gpus)(_shard)
    waiting = [task.remote([*own, "--shard", f"{index}/{num_shards}"]) for index in range(num_shards)]
    ray.get(waiting)


def without_ray(words: Sequence[str]) -> list[str]:
    """The command line of one shard: without the options that only the driver reads."""
    kept: list[str] = []
    skip = False
    for word in words:
        name, equals, _ = word.partition("=")
        if skip or name in ("--ray", "--gpus", "--shard"):
            skip = not skip and not equals
            continue
        kept.append(word)
    return kept


def _shard(words: list[str]) -> None:
    """In a process of its own on some machine: Ray gives it the GPUs that it may see. Its figures are not printed, the
    driver prints those of the whole run."""
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-m", "vzoom", *words], check=False, stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 1):  # 1: others are still at work
        raise RuntimeError(f"vzoom {' '.join(words)} ended with exit code {done.returncode}; its message is above")
