# Serving image without jax, built in the folder that contains setup.py. Bundles are in /bundles.
#
#   docker build --file=launch/docker/serve.Dockerfile --tag=warp_translate:serve .
#   docker run --publish=127.0.0.1:8000:8000 --volume="$PWD/bundles:/bundles:ro" warp_translate:serve
FROM python:3.12-slim

RUN useradd --create-home --uid=1000 server
WORKDIR /app

COPY setup.py pyproject.toml README.md ./
COPY warp_translate warp_translate
RUN pip install --no-cache-dir './[serve]'

USER 1000
EXPOSE 8000
ENTRYPOINT ["warp-translate"]
CMD ["serve", "--host=0.0.0.0", "/bundles"]
