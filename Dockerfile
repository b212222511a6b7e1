# `tunery serve` without a model inside: runs, cache and token are mounted. See docs/deploy.md.
#   docker build -t tunery-serve .
# For CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
FROM python:3.11.13-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY constraints.txt ./
RUN python -m venv /opt/tunery \
    && /opt/tunery/bin/pip install --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple \
       -c constraints.txt torch==2.13.0
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/tunery/bin/pip install -c constraints.txt ".[serve]"

FROM python:3.11.13-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tunery
COPY --from=build /opt/tunery /opt/tunery
ENV PATH=/opt/tunery/bin:$PATH \
    HF_HUB_OFFLINE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/cache
WORKDIR /data
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["tunery", "serve", "--host", "0.0.0.0", "--port", "8000", "--token-file", "/run/secrets/tunery-token"]
