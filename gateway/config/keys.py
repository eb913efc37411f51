"""The private key of a JWT app, from its file."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key


def private_key(file: Path) -> RSAPrivateKey:
    """The key in a PEM file. Raises `ValueError` for a file that holds no RSA key, or one that needs a password."""
    return key_in(file.read_bytes())


def key_in(pem: bytes) -> RSAPrivateKey:
    """The key in the text of a PEM file. Raises `ValueError` as `private_key` does."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError("this one has a password: store the key without it") from None
    except ValueError:
        raise ValueError("this one has none") from None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("this one's key is not RSA")
    return key
