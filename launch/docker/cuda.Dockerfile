# For NVIDIA GPUs. In the folder that holds setup.py:
#
#   docker build --file=launch/docker/cuda.Dockerfile --tag=warp_translate:cuda .
#
# CUDA comes with jax, from the package index; the driver from the host's container toolkit.
FROM python:3.12-slim

RUN useradd --create-home --uid=1000 trainer
WORKDIR /app

COPY setup.py pyproject.toml README.md ./
COPY warp_translate warp_translate
RUN pip install --no-cache-dir './[demo,eval,cuda]'

# Configurations are read from the folder that the command is started in.
COPY experiments experiments

USER 1000
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["warp-translate"]
