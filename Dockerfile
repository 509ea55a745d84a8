# Two images. `emc` has what a node needs, of homes, aggregators and leader alike; `testbed` has the desk on top of it.
#
#   docker build --target emc -t stackelgrid-emc .
#   docker build --target testbed -t stackelgrid-testbed .
#
# For amd64 and arm64. PYTHON_IMAGE may be any image with CPython 3.11 to 3.13 and pip on glibc, better one pinned by its
# digest: docs/containers.md. Every package is the one that requirements.lock names, its hash checked.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

# ---- What builds and installs; nothing of it gets into an image.
FROM ${PYTHON_IMAGE} AS tools
RUN --mount=type=bind,source=requirements-uv.lock,target=/source/requirements-uv.lock \
    pip install --no-cache-dir --disable-pip-version-check --root-user-action ignore --require-hashes \
        --requirement /source/requirements-uv.lock

FROM tools AS wheel
WORKDIR /source
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY leader_node leader_node
COPY aggregator_node aggregator_node
COPY emc_node emc_node
COPY broker broker
COPY stackelgrid stackelgrid
RUN uv build --quiet --wheel --require-hashes --build-constraints requirements.lock --out-dir /wheel

# ---- The packages of a node: they change seldom, so that the layers with our code stay small. The folders are where
# volumes are mounted: a new volume takes its owner from them.
FROM ${PYTHON_IMAGE} AS node
ENV PATH=/opt/stackelgrid/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin stackelgrid \
    && install -d -o stackelgrid -g stackelgrid -m 0700 /certs /desk /runs /kept /run/stackelgrid \
        /certs/authority /certs/broker /certs/leaders /certs/aggregators /certs/homes /certs/observers /certs/registrars \
        /certs/scenario \
        /desk/leaders /desk/aggregators /desk/homes
RUN --mount=type=bind,from=tools,source=/usr/local/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,source=pyproject.toml,target=/source/pyproject.toml \
    --mount=type=bind,source=requirements.lock,target=/source/requirements.lock \
    --mount=type=cache,target=/root/.cache/uv \
    python -m venv --without-pip /opt/stackelgrid \
    && uv pip install --quiet --python /opt/stackelgrid/bin/python --link-mode copy --require-hashes \
        --constraints /source/requirements.lock --requirements /source/pyproject.toml --extra metrics \
    && find /opt/stackelgrid -type d -name tests -prune -exec rm -r {} + \
    && find /opt/stackelgrid -name '*.pyi' -delete \
    && python -m compileall -q /opt/stackelgrid

FROM node AS desk
RUN --mount=type=bind,from=tools,source=/usr/local/bin/uv,target=/usr/local/bin/uv \
    --mount=type=bind,source=pyproject.toml,target=/source/pyproject.toml \
    --mount=type=bind,source=requirements.lock,target=/source/requirements.lock \
    --mount=type=cache,target=/root/.cache/uv \
    uv pip install --quiet --python /opt/stackelgrid/bin/python --link-mode copy --compile-bytecode --require-hashes \
        --constraints /source/requirements.lock --requirements /source/pyproject.toml --extra metrics --extra desk

# ---- The images. A first start compiles what it needs of the standard library, which a read-only container could not keep.
FROM node AS emc
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    PYTHONDONTWRITEBYTECODE=1 pip --python /opt/stackelgrid/bin/python install --quiet --disable-pip-version-check \
        --root-user-action ignore --no-cache-dir --no-index --no-deps /wheel/*.whl \
    && emc-node --help > /dev/null && aggregator-node --help > /dev/null && leader-node --help > /dev/null
USER 10001:10001
CMD ["emc-node", "--help"]

FROM desk AS testbed
ENV MPLCONFIGDIR=/tmp/matplotlib
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    PYTHONDONTWRITEBYTECODE=1 pip --python /opt/stackelgrid/bin/python install --quiet --disable-pip-version-check \
        --root-user-action ignore --no-cache-dir --no-index --no-deps /wheel/*.whl \
    && stackelgrid scenarios > /dev/null
WORKDIR /runs
USER 10001:10001
CMD ["stackelgrid", "--help"]
