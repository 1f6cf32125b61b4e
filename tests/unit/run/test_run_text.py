"""The sanitiser."""

import json

from xtuner.run.text import json_safe

HOSTILE = "\x1b]0;t\x07 \x7f\x9b2J \u202eabc\u2028 好 \U0001f600"


def test_json_stays_the_same_document_without_raw_controls():
    document = json_safe(json.dumps({"a": HOSTILE}, ensure_ascii=False))
    assert json.loads(document) == {"a": HOSTILE}
    assert not set("\x1b\x07\x7f\x9b\u202e\u2028") & set(document) and "好" in document
    assert json_safe(json.dumps(["\ud800"], ensure_ascii=False)).isprintable()
