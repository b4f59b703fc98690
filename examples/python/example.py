"""Coterie from Python, with nothing but its proto file and grpcio.

    python example.py [HOST:PORT ...]        by default 127.0.0.1:7400
"""

import importlib
import pathlib
import sys
import tempfile
import time
import uuid

import grpc
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"


def generated():
    """The messages and the stub, generated from the proto file into a folder that goes again."""
    with tempfile.TemporaryDirectory() as out:
        files = ["protoc", f"-I{PROTO}", f"--python_out={out}", f"--grpc_python_out={out}"]
        if protoc.main([*files, str(PROTO / "coterie/v1/kv.proto")]) != 0:
            sys.exit("the proto file could not be compiled")
        sys.path.insert(0, out)
        try:
            kv = importlib.import_module("coterie.v1.kv_pb2")
            services = importlib.import_module("coterie.v1.kv_pb2_grpc")
        finally:
            sys.path.remove(out)
    return kv, services


kv, services = generated()


class Cluster:
    """Any node serves any request, so a failed one is sent again to the next node.

    A write bears a request id, the same in each attempt: however often it is sent, it is one write.
    """

    # What may fare better elsewhere. Everything else is an answer.
    ELSEWHERE = (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )

    def __init__(self, addresses):
        self.stubs = [services.KvStub(grpc.insecure_channel(a)) for a in addresses]

    def call(self, method, request, attempts=5, timeout=2.0):
        for attempt in range(attempts):
            stub = self.stubs[attempt % len(self.stubs)]
            try:
                return getattr(stub, method)(request, timeout=timeout)
            except grpc.RpcError as error:
                if error.code() not in self.ELSEWHERE or attempt + 1 == attempts:
                    raise
                time.sleep(0.05 * 2**attempt)

    def set(self, key, value, context=b"", request_id=None):
        request_id = request_id or uuid.uuid4().bytes
        request = kv.SetRequest(key=key, value=value, context=context, request_id=request_id)
        return self.call("Set", request)

    def get(self, key, all_siblings=False):
        return self.call("Get", kv.GetRequest(key=key, all_siblings=all_siblings))

    def set_many(self, values, attempts=5):
        """Writes a dict; sends again only what failed and is safe to send again."""
        entries = [
            kv.BatchSetEntry(key=key, value=value, request_id=uuid.uuid4().bytes)
            for key, value in values.items()
        ]
        failed = {}
        for _ in range(attempts):
            answer = self.call("BatchSet", kv.BatchSetRequest(entries=entries))
            again = []
            for entry, result in zip(entries, answer.results):
                if result.WhichOneof("result") == "error":
                    failed[entry.key] = result.error
                    if result.error.retry_safe:
                        again.append(entry)
                else:
                    failed.pop(entry.key, None)
            entries = again
            if not entries:
                break
        return failed

    def scan(self, prefix):
        """Every key under a prefix; goes on from the last page's token if a node fails."""
        token = b""
        for attempt in range(5):
            request = kv.ScanRequest(prefix=prefix, page_token=token)
            try:
                for page in self.stubs[attempt % len(self.stubs)].Scan(request):
                    yield from page.entries
                    token = page.page_token
                return
            except grpc.RpcError as error:
                if error.code() not in self.ELSEWHERE or attempt == 4:
                    raise


def main():
    cluster = Cluster(sys.argv[1:] or ["127.0.0.1:7400"])

    receipt = cluster.set(b"python/greeting", "hello, wörld".encode()).receipt
    print("written to", " and ".join(receipt.homes))
    found = cluster.get(b"python/greeting")
    print("read:", found.value.decode())
    assert found.found and found.siblings == 0

    # Sent twice under one request id, it is one write: this retry overwrites nothing.
    request_id = uuid.uuid4().bytes
    first = cluster.set(b"python/once", b"1", request_id=request_id)
    again = cluster.set(b"python/once", b"1", request_id=request_id)
    assert first.receipt.dot == again.receipt.dot, (first, again)
    print("sent twice, written once:", first.receipt.dot)

    # Two writes over one context are concurrent. Both are kept, until one has seen both.
    context = cluster.get(b"python/once").context
    cluster.set(b"python/once", b"left", context)
    cluster.set(b"python/once", b"right", context)
    both = cluster.get(b"python/once", all_siblings=True)
    values = sorted(sibling.value for sibling in both.all)
    assert values == [b"left", b"right"], values
    cluster.set(b"python/once", b" and ".join(values), both.context)
    settled = cluster.get(b"python/once")
    assert settled.siblings == 0
    print("settled:", settled.value.decode())

    users = {f"python/user/{i:03}".encode(): f"user {i}".encode() for i in range(500)}
    failed = cluster.set_many(users)
    assert not failed, failed
    answer = cluster.call("BatchGet", kv.BatchGetRequest(keys=[b"python/user/007", b"python/nobody"]))
    seven, nobody = (result.ok for result in answer.results)
    assert seven.value == b"user 7" and not nobody.found
    scanned = {entry.key: entry.value for entry in cluster.scan(b"python/user/")}
    assert scanned == users, f"{len(scanned)} of {len(users)} keys"
    print("a batch of", len(users), "keys, and as many scanned")

    try:
        cluster.set(b"", b"no key")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        print("refused:", error.details())
    else:
        sys.exit("an empty key was taken")


if __name__ == "__main__":
    main()
