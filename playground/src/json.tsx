// What is entered, as the JSON that is sent. It and the form change one draft.

import { useEffect, useId, useState } from "preact/hooks";
import { bodyOf, linksOf } from "./body";
import { change } from "./draft";
import { currentEndpoint, useApp, w, type Input } from "./state";

/** The body as JSON. Typing here changes the form as soon as the text is valid. */
export function JsonView() {
  const app = useApp();
  const text = w();
  const id = useId();
  const endpoint = currentEndpoint();
  const [typed, setTyped] = useState<string | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const [links, setLinks] = useState<string[] | null>(null);
  useEffect(() => {
    let current = true;
    void linksOf(app.draft).then(
      (found) => current && setLinks(found),
      () => current && setLinks(app.draft.inputs.map((input) => ("link" in input ? input.link : ""))),
    );
    return () => void (current = false);
  }, [app.draft.inputs]);
  if (!endpoint) return null;
  const written = links === null ? "…" : JSON.stringify(bodyOf(app.draft, endpoint, links), null, 2);
  const read = (source: string) => {
    setTyped(source);
    let body: Record<string, unknown>;
    try {
      body = JSON.parse(source) as Record<string, unknown>;
    } catch {
      setProblem(text.jsonBroken);
      return;
    }
    const { prompt, [endpoint.imageField]: images, ...values } = body;
    const unknown = Object.keys(values).find((name) => !(name in endpoint.properties));
    setProblem(unknown === undefined ? null : text.jsonUnknown(unknown));
    if (unknown !== undefined) return;
    const given = (Array.isArray(images) ? images : images ? [images] : []).map(String);
    // A link that is one of this browser's images stays that image.
    const inputs: Input[] = given.map((link) => app.draft.inputs[links?.indexOf(link) ?? -1] ?? { link });
    const same = JSON.stringify(inputs) === JSON.stringify(app.draft.inputs);
    change({ prompt: String(prompt ?? ""), values, ...(same ? {} : { inputs, mask: null }) });
  };
  return (
    <div class="json">
      <label for={id} class="hint">
        {text.jsonHint}
      </label>
      <textarea
        id={id}
        class="code"
        spellcheck={false}
        rows={16}
        value={typed ?? written}
        readOnly={links === null}
        aria-invalid={problem !== null}
        onInput={(event) => read(event.currentTarget.value)}
        onBlur={() => problem === null && setTyped(null)}
      />
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
    </div>
  );
}
