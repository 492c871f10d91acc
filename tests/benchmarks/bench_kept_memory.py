"""ViT-B at 1024: encodes by a process that keeps the memory it once took, against one where glibc does as it likes."""

from tests.benchmarks import subjects
from tests.benchmarks.rows import Row, compare

ROUNDS = 7


def run() -> list[Row]:
    """Compare two processes that differ in nothing else."""
    with subjects.engine("ours") as keeps, subjects.engine("ours", {"GLIBC_TUNABLES": ""}) as gives_back:
        return [
            compare(
                "encoder, ViT-B at 1024, memory kept",
                lambda: subjects.ask(keeps),
                lambda: subjects.ask(gives_back),
                against="glibc's own way",
                goal=1.0,
                rounds=ROUNDS,
            )
        ]
