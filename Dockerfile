# One image for web processes and workers: `serve` (the default) or `worker`.
#   docker build --target cpu -t paddle-sam-backend:cpu .
#   docker build --target gpu -t paddle-sam-backend:gpu .
# What compiles or downloads stays in the build stages; weights come in through a volume.
# `python -m tests.support.dockerfile_steps` runs the steps without Docker, as far as that goes.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH

FROM build AS build-cpu
COPY requirements.lock /build/
RUN pip install --require-hashes -r /build/requirements.lock

FROM build AS build-gpu
# Paddle serves its GPU builds from its own index, one per CUDA version; they bring CUDA's libraries as wheels.
ARG PADDLE_INDEX=https://www.paddlepaddle.org.cn/packages/stable/cu126/
# The lock has all the rest; the second step finds it installed.
COPY requirements-gpu.txt requirements-gpu.lock /build/
RUN pip install --require-hashes -r /build/requirements-gpu.lock
RUN pip install -r /build/requirements-gpu.txt --extra-index-url ${PADDLE_INDEX}

FROM build AS app
COPY LICENSE NOTICE _wsgi.py /app/
COPY model /app/model
COPY backend /app/backend
# Whatever the clone's permissions are, everybody may read; and nobody may write what Python would compile later.
RUN chmod -R a+rX,go-w /app && python -m compileall -q /app

FROM python:${PYTHON} AS base
# Paddle needs OpenMP's runtime, nothing here needs a compiler.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home paddle-sam \
    && install -d -o paddle-sam /weights /cache
WORKDIR /app
COPY --from=app /app /app
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    MODEL_DIR=/weights PADDLE_SAM_CACHE_DIR=/cache PADDLE_SAM_DECODERS_DIR=/weights/decoders
VOLUME ["/weights", "/cache"]
EXPOSE 9090
USER paddle-sam
# Of a web process; a worker has its own, see docker-compose.yml.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "-m", "backend", "serve", "--check"]
ENTRYPOINT ["python", "-m", "backend"]
CMD ["serve"]

FROM base AS gpu
COPY --from=build-gpu /venv /venv
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# Last, so that it is what `docker build .` makes.
FROM base AS cpu
COPY --from=build-cpu /venv /venv
