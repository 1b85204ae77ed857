"""Text that wants to be a page of its own, everywhere where foreign text can be: both kinds of pages stay inert."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from browser.chrome import Chrome
from browser.sample import make_result
from browser.test_page import chrome, complaints, requests
from eval_rows import make_item, make_story, write_run

from vzoom.eval.item import Verdict
from vzoom.eval.run_page import page as page_of
from vzoom.report import Report

__all__ = ["chrome"]  # the fixture: one browser for this file

RUN = "document.title='hacked';window.hacked=1"
PAYLOADS = {
    "script": f"</script><script>{RUN}</script></title><script>{RUN}</script></style></textarea><script>{RUN}</script>",
    "comment": f'<!--<script>{RUN}</script>--><!--><script>{RUN}</script><![CDATA[><img src=x onerror="{RUN}">]]>',
    "attribute": f"\" onfocus=\"{RUN}\" autofocus tabindex=0 onmouseover='{RUN}' x=\"' onclick='{RUN}' y='` z=`",
    "address": f'javascript:{RUN} <a href="javascript:{RUN}">a</a> [a](javascript:{RUN}) <base href="http://x.invalid/">'
    f'<meta http-equiv="refresh" content="0;url=javascript:{RUN}"><form action="javascript:{RUN}"><button>',
    "separators": f"\u2028\u2029{RUN}\u2028</script\u2028><script>{RUN}</script>\x00<scr\x00ipt>"
    f"\u202e\ud800\x1b]0;hacked\x07\ufeff&#60;script&#62;{RUN}&lt;/script&gt;",
    "template": f'${{script}}$script$$${{body}}%s{{0}}<svg onload="{RUN}">'
    f'<iframe srcdoc="&lt;script>parent.{RUN}&lt;/script>">'
    f'<style>@import "http://evil.invalid/a.css";*{{background:url(http://evil.invalid/b)}}</style>'
    f'<math><mtext><img src=http://evil.invalid/c onerror="{RUN}"></math><object data="javascript:{RUN}">',
}

_ODD = """(() => {
  const odd = [...document.querySelectorAll("iframe, object, embed, base, svg script, math, textarea, style + style")];
  odd.push(...document.querySelectorAll("meta[http-equiv=refresh], link:not([rel=icon])"));
  for (const e of document.querySelectorAll("*")) {
    for (const { name, value } of e.attributes) {
      const isAddress = ["href", "src", "action", "formaction", "data", "srcdoc"].includes(name);
      if (name.startsWith("on") || isAddress && !/^(#|data:)/.test(value)) odd.push(e);
    }
  }
  return odd.map(e => e.outerHTML.slice(0, 200));
})()"""
_PROVOKE = """(() => {
  document.querySelectorAll("details").forEach(d => { d.open = true; });
  for (const e of document.querySelectorAll("main *")) {
    for (const kind of ["mouseover", "pointerover", "focusin", "click"]) {
      if (!e.matches("button, a")) e.dispatchEvent(new MouseEvent(kind, { bubbles: true }));
    }
    if (e.focus) e.focus();
  }
})()"""


def answer_page(payload: str, folder: Path) -> Path:
    result = make_result(
        question=f"{payload}\nA: {payload}\nB: {payload}", thought=payload, answer=payload, path=f"/v/{payload}.mp4"
    )
    return Report(replace(result, model=payload)).save(folder / "page.html")


def run_page(payload: str, folder: Path) -> Path:
    item = make_item(
        0,
        id=payload,
        video=payload,
        question=f"{payload}\nA: {payload}\nB: {payload}",
        options=(payload, payload, "ring", "bolt"),
        category=payload,
        duration_bucket=payload,
        source=payload,
    )
    story = make_story(zooms=[(1.0, 3.0)], errors=[payload], text=payload)
    rows = [
        (item, Verdict("right", said="B", detail=payload), story),
        (replace(item, id="1"), Verdict("missing_video", detail=payload), None),
    ]
    safe = "".join(c for c in payload if c not in "/\0" and not "\ud800" <= c <= "\udfff")[:80].encode()[:120]
    run = folder / safe.decode("utf-8", "ignore")
    written = [
        write_run(run, rows, model=payload, model_hash=payload, protocol_hash=payload, benchmark=payload),
        write_run(folder / "other", rows[:1], "uniform", model=payload, benchmark=payload),
    ]
    out = folder / "page.html"
    out.write_text(page_of(written), encoding="utf-8")
    return out


@pytest.mark.parametrize("make", [answer_page, run_page])
@pytest.mark.parametrize("kind", PAYLOADS)
def test_a_payload_stays_text(kind: str, make: Callable[[str, Path], Path], chrome: Chrome, tmp_path: Path) -> None:
    payload = PAYLOADS[kind]
    page = make(payload, tmp_path)
    chrome.open(page, width=900)
    chrome.evaluate(_PROVOKE)
    chrome.wait_for("document.readyState === 'complete'")
    assert chrome.evaluate("[window.hacked, document.title === 'hacked', document.scripts.length]") == [None, False, 1]
    assert chrome.evaluate(_ODD) == []
    assert requests(chrome) == [page.resolve().as_uri()]  # and it is still this page
    assert complaints(chrome) == []
    if kind != "separators":  # which hold characters that no page can show
        assert chrome.evaluate(f"document.body.textContent.includes({json.dumps(payload)})")
