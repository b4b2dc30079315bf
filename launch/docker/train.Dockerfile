# Training image, built in the folder that contains setup.py. EXTRAS selects the accelerator:
# demo,eval for CPUs, demo,eval,cuda for NVIDIA GPUs, demo,eval,tpu for TPUs.
#
#   docker build --file=launch/docker/train.Dockerfile --build-arg=EXTRAS=demo,eval,cuda \
#     --tag=warp_translate:cuda .
FROM python:3.12-slim

RUN useradd --create-home --uid=1000 trainer
WORKDIR /app

COPY setup.py pyproject.toml README.md ./
COPY warp_translate warp_translate
# jax brings CUDA; the host's container toolkit provides the driver.
ARG EXTRAS=demo,eval
RUN pip install --no-cache-dir "./[${EXTRAS}]"

# Configurations are read from the working directory.
COPY experiments experiments

USER 1000
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["warp-translate"]
