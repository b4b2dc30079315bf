# For CPUs. In the folder that holds setup.py:
#
#   docker build --file=launch/docker/cpu.Dockerfile --tag=warp_translate:cpu .
FROM python:3.12-slim

RUN useradd --create-home --uid=1000 trainer
WORKDIR /app

COPY setup.py pyproject.toml README.md ./
COPY warp_translate warp_translate
RUN pip install --no-cache-dir './[demo,eval]'

# Configurations are read from the folder that the command is started in.
COPY experiments experiments

USER 1000
ENTRYPOINT ["warp-translate"]
