# One image for all services of docker-compose.yml, which also says how each is seen to be healthy.
FROM python:3.12-slim AS installed
# Extras of pyproject.toml: "gpu" for CUDA 13, "gpu-cu12" for CUDA 12.
ARG EXTRAS=""
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY hyperlearn_dask hyperlearn_dask
COPY pipeline pipeline
RUN python -m venv /opt/hyperlearn \
    && /opt/hyperlearn/bin/pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.12-slim
# Without OpenMP Numba takes threads that end the process when two callers meet.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
# A new volume takes the owner of the folder it is mounted at.
RUN useradd --create-home --uid 1000 hyperlearn \
    && install --directory --owner hyperlearn --group hyperlearn /results /kernels
COPY --from=installed /opt/hyperlearn /opt/hyperlearn
ENV PATH=/opt/hyperlearn/bin:$PATH NUMBA_CACHE_DIR=/kernels PYTHONUNBUFFERED=1
USER hyperlearn
WORKDIR /home/hyperlearn
ENTRYPOINT ["hyperlearn"]
