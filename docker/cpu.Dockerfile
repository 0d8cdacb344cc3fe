# syntax=docker/dockerfile:1
# CPU image, without the GPU one's gigabytes of CUDA. From the root of the repository:
#   docker build -f docker/cpu.Dockerfile -t clip-fewshot:cpu .
# How to run it: docs/docker.md; leave --gpus away.
ARG BASE=python:3.11-slim
FROM ${BASE}

# Packages of pyproject.toml's extras, for what wants them: text, open-clip, spark, tracking. `--build-arg EXTRAS=text,spark`.
ARG EXTRAS=
# Spark 4 runs on Java 17 or later, and a distribution has one of these two. Java wants an account of whoever runs it:
# libnss-wrapper gives one to any uid (entrypoint.py).
RUN case "${EXTRAS}" in *spark*) \
        apt-get update \
        && apt-get satisfy -y --no-install-recommends \
            "openjdk-21-jre-headless | openjdk-17-jre-headless, procps, libnss-wrapper" \
        && rm -rf /var/lib/apt/lists/* ;; \
    esac

# Dependencies before sources: a change of the code does not install them again. Without sources the package is empty.
WORKDIR /src
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY setup.py pyproject.toml constraints.txt LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install -c constraints.txt --extra-index-url "${TORCH_INDEX}" ".[postgres${EXTRAS:+,${EXTRAS}}]"

COPY clip_fewshot clip_fewshot
# Any uid may run the image (`--user`), so what it writes to is open to all, as /tmp is. A folder mounted at /code is where
# `python:MODULE:NAME` is looked for, after what is installed: a checkout mounted there does not replace the package.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install --no-deps --force-reinstall . \
    && mkdir -p /app/runs /cache \
    && chmod 1777 /app /app/runs /cache \
    && echo /code > "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/own_code.pth"

# A uid without an account has no home and no name; torch and matplotlib ask for both.
ENV CLIP_FEWSHOT_CACHE=/cache \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1 \
    USER=clip
WORKDIR /app
# Beside the package and not in it: an image has no project of the user's whose folder of that name it could hide.
COPY experiments experiments
COPY docker/entrypoint.py /entrypoint.py
VOLUME ["/cache", "/app/runs"]
USER 1000:1000
# `python -m` of what follows, after a look at who may write where.
ENTRYPOINT ["python", "-I", "/entrypoint.py"]
CMD ["experiments.few_shot", "--help"]
