// The request in the form as code, to be taken along.

import { useEffect, useState } from "preact/hooks";
import { keepsSize } from "./schema";
import { LANGUAGES, PROTOCOLS, snippet, type CodeLanguage, type Protocol } from "./snippets";
import { bodyOf, linksOf, maskLink } from "./body";
import { currentEndpoint, useApp, w } from "./state";
import { Tabs, useFile } from "./ui";

export function Code() {
  const app = useApp();
  const text = w();
  const endpoint = currentEndpoint();
  const [protocol, setProtocol] = useState<Protocol>("fal");
  const [language, setLanguage] = useState<CodeLanguage>("curl");
  const [links, setLinks] = useState<string[] | null>(null);
  const [copied, setCopied] = useState(false);
  const lastInput = app.draft.inputs.at(-1);
  const last = useFile(lastInput && "file" in lastInput ? lastInput.file : undefined);
  useEffect(() => {
    let current = true;
    setLinks(null);
    void linksOf(app.draft).then(
      (found) => current && setLinks(found),
      () => current && setLinks([]),
    );
    return () => void (current = false);
  }, [app.draft.inputs]);
  const [mask, setMask] = useState<string | null>(null);
  useEffect(() => {
    let current = true;
    setMask(null);
    if (app.draft.mask) void maskLink(app.draft).then((found) => current && setMask(found));
    return () => void (current = false);
  }, [app.draft.mask]);
  useEffect(() => setCopied(false), [protocol, language, app.draft]);
  if (!endpoint) return null;
  const sized = endpoint.properties["image_size"];
  const kept = keepsSize(sized) && last ? `${last.file.width}x${last.file.height}` : null;
  const size = sized?.default === undefined ? kept : String(sized.default);
  const body = bodyOf(app.draft, endpoint, links ?? []);
  const ready = links !== null && (!app.draft.mask || mask !== null) && !(lastInput && "file" in lastInput && !last);
  const source = !ready ? "…" : snippet(protocol, language, { server: location.origin, endpoint, body, links, size, mask });
  const copy = async () => {
    await copyText(source);
    setCopied(true);
  };
  return (
    <>
      <p class="hint">{text.codeHint}</p>
      {app.draft.mask && protocol !== "OpenAI" && <p class="note">{text.noMaskInCode}</p>}
      <Tabs label={text.protocol} names={PROTOCOLS} chosen={protocol} onChoose={setProtocol} quiet>
        <Tabs label={text.codeLanguage} names={LANGUAGES} chosen={language} onChoose={setLanguage} quiet>
          <div class="snippet">
            <pre tabIndex={0}>
              <code>{source}</code>
            </pre>
            <div class="row">
              <button type="button" onClick={() => void copy()} disabled={!ready}>
                {text.copy}
              </button>
              <span class="hint" aria-live="polite">
                {copied ? text.copied : ""}
              </span>
            </div>
          </div>
        </Tabs>
      </Tabs>
    </>
  );
}

/** The clipboard of a page is open on https and localhost only; elsewhere a selection does the same. */
async function copyText(source: string): Promise<void> {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(source);
    return;
  }
  const area = document.createElement("textarea");
  area.value = source;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
