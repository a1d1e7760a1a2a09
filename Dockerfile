# syntax=docker/dockerfile:1
# One image for a site: workers, Prefect's servers, both migrations, a small S3 server (compose.yaml).
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/comfyline
ENV PATH=/opt/comfyline/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt README.md ./
COPY comfyline ./comfyline
COPY flows ./flows
COPY tasks ./tasks
COPY configs ./configs
RUN pip install --constraint constraints.txt '.[redis,telemetry]'

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --create-home comfyline \
    && install --directory --owner=comfyline --mode=0700 /var/lib/comfyline
COPY --from=build /opt/comfyline /opt/comfyline
COPY flows /srv/comfyline/flows
COPY tasks /srv/comfyline/tasks
COPY configs /srv/comfyline/configs
COPY prefect.yaml /srv/comfyline/
COPY deploy/with-secrets.sh /usr/local/bin/with-secrets
COPY deploy/with-runs.py /usr/local/bin/with-runs
ENV PATH=/opt/comfyline/bin:$PATH \
    COMFYLINE_HOME=/var/lib/comfyline \
    PREFECT_HOME=/var/lib/comfyline/prefect-client \
    PYTHONUNBUFFERED=1
USER comfyline
WORKDIR /srv/comfyline
VOLUME /var/lib/comfyline
ENTRYPOINT ["with-secrets"]
# A worker by itself; compose.yaml gives each service its own command and check.
CMD ["with-runs", "prefect", "worker", "start", "--type", "process", "--pool", "comfyline", "--with-healthcheck"]
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
