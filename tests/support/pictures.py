"""Pictures made in memory."""

from __future__ import annotations

import io

RED = (200, 30, 40)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
