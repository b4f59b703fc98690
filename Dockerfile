# One node. It needs no shell, no root and no writable file but those of its data folder.
#   docker build -t coterie:0.1.0 .

# Any image with Rust and gcc, and any with glibc (not older than the builder's) and libgcc.
ARG BUILDER=rust:1-slim-bookworm
ARG RUNTIME=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILDER} AS builder
WORKDIR /source
COPY . .
# The names of functions stay for backtraces; the tables of lines are four fifths of the binary.
RUN cargo build --release --locked --package coterie \
    && strip --strip-debug target/release/coterie \
    && install -D -m 755 target/release/coterie /image/usr/local/bin/coterie \
    && install -D -m 644 LICENSE /image/usr/share/doc/coterie/LICENSE \
    && mkdir /data

FROM ${RUNTIME}
COPY --from=builder /image /
# A new volume takes its owner from this folder.
COPY --from=builder --chown=65532:65532 /data /data
USER 65532:65532
WORKDIR /data
# One folder for all that must stay; it belongs to one node.
VOLUME /data
ENV COTERIE__NODE__DATA=/data/node
# Clients by gRPC, other nodes by TCP and UDP, operators by HTTP.
EXPOSE 7400 7401/tcp 7401/udp 7402
# Whether this node answers its clients; whether others do is for `coterie status` to say.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["coterie", "members", "--pinned", "--output", "json"]
ENTRYPOINT ["coterie"]
CMD ["serve"]
