# Debian's Redis, where the official image cannot be pulled.
FROM onecard-test-base
RUN apt-get update && apt-get install --yes --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/*
