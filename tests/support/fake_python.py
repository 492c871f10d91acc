"""A stand-in for Python that logs its commands, and makes environments without packages."""

import sys

from tests.support.processes import ROOT

SCRIPT = """\
#!/bin/sh
echo "$*" >> "$FAKE_LOG"
case "$*" in
  *version_info*) exit ${FAKE_VERSION_IS_WRONG:-0} ;;
  *backend.demo.environment*) shift 2; exec "$REAL_PYTHON" -c "
import sys; sys.executable = '$0'
from backend.demo.environment import main
main(sys.argv[1:])" "$@" ;;
  "-m venv --clear "*) [ -z "$FAKE_NO_VENV" ] || exit 1
    rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  *"pip install"*) echo "half a package" > "$(dirname "$0")/package"
    if [ -n "$FAKE_PIP_HANGS" ]; then echo $$ > "$FAKE_LOG.pid"; exec sleep 60; fi
    sleep "${FAKE_PIP_TAKES:-0}"
    exit ${FAKE_PIP_FAILS:-0} ;;
  *"-m pytest"*) exit ${FAKE_PYTEST_FAILS:-0} ;;
  *label_studio*start*) tries=0  # what ends first stops the other one: this waits until that has written its line
    until grep -qx serve "$FAKE_LOG" || [ $((tries += 1)) -gt 600 ]; do sleep 0.05; done ;;
esac
"""


class FakePython:
    """The stand-in in a folder.

    Attributes:
        path: the interpreter.
        environ: what it needs to be given.
        pid: the file with the process id of a pip that hangs.
    """

    def __init__(self, folder):
        self.path, self._log, self.pid = folder / "python", folder / "log", folder / "log.pid"
        self.path.write_text(SCRIPT)
        self.path.chmod(0o755)
        self.environ = {"FAKE_LOG": str(self._log), "REAL_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}

    def commands(self):
        """The commands since the last call of this method."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return [line for line in lines if "version_info" not in line and "backend.demo.environment" not in line]
