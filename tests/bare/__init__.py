"""What is found first in the path of a gateway that a test starts, so that it starts as it does in production."""
