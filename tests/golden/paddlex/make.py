"""Makes the directories beside it: exports of a minute SAM by versions of Paddle that the tests cannot install.

Run from the project's root, in an interpreter with the version of Paddle that the directory is named after:

    python3.11 -m tests.golden.paddlex.make legacy_box_2.6.2 box                          # paddlepaddle 2.6.2
    FLAGS_enable_pir_api=0 python3.11 -m tests.golden.paddlex.make legacy_point_3.0.0 point   # paddlepaddle 3.0.0
    python3.11 -m tests.golden.paddlex.make pir_box_3.0.0 box                             # paddlepaddle 3.0.0

The values are those of ``checkpoints.random_tensors(MINUTE, SEED)``, so that a test can tell where each one landed.
"""

import gzip
import sys
from pathlib import Path

from model.config import SamConfig, VitConfig
from tests.support.checkpoints import random_tensors

MINUTE = SamConfig(
    "minute",
    VitConfig(embed_dim=16, depth=2, num_heads=2, global_attn_indexes=(1,), window_size=2, mlp_ratio=2.0),
    image_size=32,
    patch_size=8,
    prompt_embed_dim=16,
    mask_in_chans=8,
    decoder_mlp_dim=24,
    iou_head_hidden_dim=12,
)
SEED = 7


def main():
    name, kind = sys.argv[1:]
    from tests.support import paddle_reference_network

    directory = Path(__file__).parent / name
    directory.mkdir(exist_ok=True)
    network = paddle_reference_network.build(MINUTE, random_tensors(MINUTE, SEED), kind=kind)
    paddle_reference_network.save(network, MINUTE, str(directory / "inference"))
    (directory / "inference.yml").write_text(
        f"Global:\n  model_name: SAM-H_{kind}\nPreprocess: []\nProcessor:\n  type: SAMProcessor\n  size: 32\n"
    )
    (directory / "inference.pdiparams.info").unlink(missing_ok=True)  # a pickle that nothing needs
    if (directory / "inference.pdmodel").exists():
        forget_callstacks(directory / "inference.pdmodel")
    else:
        program = directory / "inference.json"
        (directory / "inference.json.gz").write_bytes(gzip.compress(program.read_bytes(), mtime=0))
        program.unlink()


def forget_callstacks(path):
    """Leave out where on the maker's disk each operation was written: not part of the program, and most of the file."""
    from paddle.base.proto import framework_pb2

    program = framework_pb2.ProgramDesc()
    program.ParseFromString(path.read_bytes())
    for block in program.blocks:
        for operation in block.ops:
            for index in reversed(range(len(operation.attrs))):
                if operation.attrs[index].name == "op_callstack":
                    del operation.attrs[index]
    path.write_bytes(program.SerializeToString())


if __name__ == "__main__":
    main()
