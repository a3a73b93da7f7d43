# The environment of a run, and by default the digits:
#
#   docker build -t inversion_jax .
#   docker run --rm -v "$PWD/runs:/home/user/runs" inversion_jax
#   docker run --rm -v "$PWD/runs:/home/user/runs" inversion_jax --config=svhn_conv2:smoke
#
# For GPUs: docker build --build-arg EXTRA=cuda, and docker run --gpus=all.
FROM python:3.12-slim
ARG EXTRA=""
COPY . /opt/inversion_jax
RUN pip install --no-cache-dir "/opt/inversion_jax${EXTRA:+[$EXTRA]}"
RUN useradd --create-home user && mkdir /home/user/runs && chown -R user /home/user
USER user
WORKDIR /home/user
ENTRYPOINT ["python", "-m", "inversion_jax.main"]
CMD ["--config=digits"]
