"""Stand-in: asks no model."""

import os


def create_client(model: str) -> tuple[str, str]:
    print(f"Using OpenAI API with model {model}.")
    # As a library does whose error quotes the request.
    print("Authorization: Bearer " + os.environ.get("OPENAI_API_KEY", "no key"))
    return os.environ["OPENAI_API_KEY"], model
