# syntax=docker/dockerfile:1
# CPU image, without the GPU one's gigabytes of CUDA. From the root of the repository:
#   docker build -f docker/cpu.Dockerfile -t clip-fewshot:cpu .
#   docker run --rm clip-fewshot:cpu experiments.few_shot --trials 50
ARG BASE=python:3.11-slim
FROM ${BASE}

# Dependencies before sources: a change of the code does not install them again. With setup.py alone the package is empty.
WORKDIR /src
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY setup.py pyproject.toml constraints.txt LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install -c constraints.txt --extra-index-url "${TORCH_INDEX}" ".[postgres]"

COPY clip_fewshot clip_fewshot
# Any uid may run the image (`--user`), so what it writes to is open to all, as /tmp is.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --no-deps --force-reinstall . \
    && mkdir -p /app/runs /cache \
    && chmod 1777 /app /app/runs /cache

# A uid without an account has no home and no name; torch and matplotlib ask for both.
ENV CLIP_FEWSHOT_CACHE=/cache \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1 \
    USER=clip
WORKDIR /app
# Beside the package and not in it: an image has no project of the user's whose folder of that name it could hide.
COPY experiments experiments
VOLUME ["/cache", "/app/runs"]
USER 1000:1000
ENTRYPOINT ["python", "-m"]
CMD ["experiments.few_shot", "--help"]
