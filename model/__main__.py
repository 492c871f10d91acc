"""``python -m model``, and the command ``paddle-sam``."""

from model import cli
from model.cli.sigterm import end_as_on_ctrl_c


def main(prog_name: str | None = None) -> None:
    """Run the command line."""
    end_as_on_ctrl_c()
    cli.main(prog_name=prog_name)


if __name__ == "__main__":
    main("python -m model")
