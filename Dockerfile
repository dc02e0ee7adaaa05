# The demonstration, with no Python of one's own:
#   docker build --tag deformation-zoo .
#   docker run --rm --volume "$PWD/demo:/demo" deformation-zoo
# and any other command of the shell: docker run --rm deformation-zoo list
FROM python:3.12-slim
WORKDIR /source
COPY setup.py setup.cfg pyproject.toml README.md LICENSE ./
COPY zoo zoo
COPY registry registry
COPY pretrained pretrained
RUN pip install --no-cache-dir .
# What is imported must be what was installed.
WORKDIR /
ENTRYPOINT ["zoo"]
CMD ["demo", "--out", "/demo"]
