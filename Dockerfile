# docker build -t cascade-rt .
# docker run -p 127.0.0.1:7860:7860 cascade-rt                      the demo model, on the CPU
# docker run --gpus all -p 127.0.0.1:7860:7860 -v /srv/models:/models:ro cascade-rt serve --host 0.0.0.0 --insecure -m /models/stable-cascade
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
# libvulkan1 reaches GPUs through Vulkan; CUDA's driver comes from the container's runtime.
RUN apt-get update && apt-get install -y --no-install-recommends libvulkan1 && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home cascade
COPY --from=build /src/target/release/cascade-rt /usr/local/bin/
USER 10001
EXPOSE 7860
HEALTHCHECK --interval=10s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/7860 && printf 'GET /health/ready HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && grep -q ' 200 ' <&3"]
ENTRYPOINT ["cascade-rt"]
# The container's port is published to this machine alone, as above, which is what --insecure relies on.
CMD ["serve", "--host", "0.0.0.0", "--insecure"]
