# Debian's Prometheus, where the official image cannot be pulled.
FROM onecard-test-base
RUN apt-get update && apt-get install --yes --no-install-recommends prometheus && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner nobody /prometheus
