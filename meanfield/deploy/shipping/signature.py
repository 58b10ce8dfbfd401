"""A detached signature of a shipped folder, made and checked by OpenSSH.

The signature ``manifest.json.sig`` signs ``manifest.json``, which holds the sha256 of
every other file of the folder. It can be checked without meanfield by

    ssh-keygen -Y verify -f SIGNERS -I NAME -n meanfield -s manifest.json.sig \
        < manifest.json

where each line of SIGNERS has a name and a public key, see ALLOWED SIGNERS in
ssh-keygen(1): ``ann@bank.example ssh-ed25519 AAAA…``.
"""

import os
import subprocess
from pathlib import Path

from meanfield.checks import require

from .manifest import MANIFEST, SIGNATURE, check_manifest, file_in

_NAMESPACE = "meanfield"


def sign_shipped(folder: str | os.PathLike, key: str | os.PathLike) -> Path:
    """Sign a shipped folder.

    Args:
        folder: the folder that `ship` made.
        key: a private SSH key, or a public one whose private key is in an SSH agent.

    Returns:
        The path of the signature.

    Raises:
        FileExistsError: the folder is signed already.
        ValueError: a file was changed after shipping, or the key cannot sign.
        RuntimeError: there is no ssh-keygen.

    Example:
        >>> import meanfield as mf
        >>> mf.deploy.sign_shipped("shipped", "~/.ssh/id_ed25519")  # doctest: +SKIP
    """
    folder, key = Path(folder), Path(key).expanduser()
    check_manifest(folder)
    require(key.is_file(), f"`key` must be an SSH key file; there is no {key}.")
    signature = folder / SIGNATURE
    if signature.exists():
        raise FileExistsError(f"{signature} exists; remove it to sign again.")
    done = _ssh_keygen("sign", "-f", str(key), "-n", _NAMESPACE, str(folder / MANIFEST))
    require(
        done.returncode == 0,
        f"{key} cannot sign: {_said(done)}. Make a key with ssh-keygen -t ed25519.",
    )
    return signature


def check_signature(folder: str | os.PathLike, signers: str | os.PathLike) -> str:
    """The name of the signer of a shipped folder.

    Args:
        folder: the folder that `ship` made.
        signers: a file of names and public keys, see the top of the module.

    Returns:
        The signer's name in that file.

    Raises:
        FileNotFoundError: the folder is not signed.
        ValueError: nobody in the file has signed this manifest.
        RuntimeError: there is no ssh-keygen.
    """
    folder, signers = Path(folder), Path(signers)
    require(
        signers.is_file(),
        f"`signers` must be a file of names and public keys; there is no {signers}.",
    )
    signature = file_in(folder, SIGNATURE, "signer")
    manifest = file_in(folder, MANIFEST, "card").read_bytes()
    given = ["-f", str(signers), "-s", str(signature)]
    found = _ssh_keygen("find-principals", *given)
    names = found.stdout.decode(errors="replace").splitlines()
    require(
        found.returncode == 0 and bool(names),
        f"`signers` must name the signer of {signature}, but no key in {signers} "
        f"fits: {_said(found)}. Add the signer's public key.",
    )
    done = _ssh_keygen(
        "verify", *given, "-I", names[0], "-n", _NAMESPACE, given=manifest
    )
    require(
        done.returncode == 0,
        f"{signature} does not belong to {MANIFEST}: {_said(done)}. The folder was "
        "changed after it was signed; restore it from a copy.",
    )
    return names[0]


def _ssh_keygen(
    action: str, *arguments: str, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", "-Y", action, *arguments],
            input=given,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise RuntimeError(
            "signatures need ssh-keygen, which comes with OpenSSH 8.1 or newer; "
            "install it, or do without a signature."
        ) from error


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1].rstrip(".") if lines else f"exit code {done.returncode}"
