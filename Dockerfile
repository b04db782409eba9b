# syntax=docker/dockerfile:1
#
#   docker build --target cpu -t limen:0.1.0-cpu .        a machine without a GPU
#   docker build --target cuda -t limen:0.1.0-cuda .      NVIDIA driver for CUDA 13 on the host
#
# The CPU build of torch is not on PyPI; name an index that carries it, or the image holds the CUDA
# build as well (it runs, and is several GB larger):
#
#   docker build --target cpu --build-arg PIP_ARGS="--extra-index-url URL" .

FROM python:3.11-slim-bookworm AS build
ARG PIP_ARGS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/limen
ENV PATH=/opt/limen/bin:$PATH
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pipeline pipeline
COPY serving serving
COPY jobs jobs

# torch stands in the same command as the rest, so that no other requirement brings a newer one.
FROM build AS build-cpu
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt $PIP_ARGS torch==2.13.0 '.[cpu,models,postgresql]'

# CUDA and cuDNN come as wheels: the image needs nothing of NVIDIA's below it, the host its driver.
FROM build AS build-cuda
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt $PIP_ARGS torch==2.13.0 '.[gpu,postgresql]'

FROM python:3.11-slim-bookworm AS runtime
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# wget: KubeRay's probes call it inside the container. Debian's mirrors keep one version of a
# package, so a pinned one would break the build at the next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    # KubeRay may start Ray from a login shell, which resets PATH.
    && echo "export PATH=/opt/limen/bin:\$PATH" > /etc/profile.d/limen.sh \
    && useradd --create-home --uid 1000 limen \
    && install -d -o limen -g limen /data
ENV PATH=/opt/limen/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_worker_niceness=0
USER 1000
# Items, runs and releases lie below the working folder: mount a volume here.
WORKDIR /data
EXPOSE 8000
# By default the container serves; one that runs a job (`docker run IMAGE run RECIPE`) has no
# /livez and is started with --no-healthcheck.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD ["wget", "-q", "-T", "3", "-O", "/dev/null", "http://127.0.0.1:8000/livez"]
ENTRYPOINT ["limen"]
CMD ["serve", "production", "--host", "0.0.0.0"]

FROM runtime AS cuda
COPY --from=build-cuda /opt/limen /opt/limen
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime AS cpu
COPY --from=build-cpu /opt/limen /opt/limen
