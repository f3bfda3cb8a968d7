"""How code written for the official SDK turns values into payloads."""

from __future__ import annotations

import json

from duroxide.errors import CodecError
from duroxide.payload import JsonCodec


class SdkCodec(JsonCodec):
    """`json.dumps`, text for text; what that refuses (dataclasses, sets, dates ...) is still written."""

    def encode(self, value: object) -> str:
        """The value as JSON.

        Raises:
            TypeError: something in it has no JSON form.
        """
        try:
            return json.dumps(value)
        except TypeError as refusal:
            try:
                return super().encode(value)
            except CodecError:
                raise refusal from None


SDK_JSON = SdkCodec()
