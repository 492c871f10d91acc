"""For those who start a backend the way label-studio-ml's examples do.

``gunicorn --bind 0.0.0.0:9090 --threads 40 --timeout 0 --worker-class backend.web.gunicorn_server.WebWorker
_wsgi:app``; without ``--bind`` it is on this machine's port 8000 only, without ``--worker-class`` slow callers can keep
its threads. The same settings as ``python -m backend serve``, from the environment. Works with ``--preload`` too:
building the application neither imports Paddle nor connects to anything, and its threads start with the first request.
"""

import atexit
import os

from backend import logs
from backend.composition import parts, web
from backend.settings import read

settings = read(os.environ)
logs.configure(settings.log_level)
service = web.build(settings, parts.read_weights(settings))
atexit.register(service.close)
app = service.app
