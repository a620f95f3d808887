// What is entered, as a form made from the endpoint's schema.

import { useEffect, useId, useRef } from "preact/hooks";
import { change, chooseEndpoint } from "./draft";
import { Field } from "./fields";
import { Inputs } from "./inputs";
import { edit } from "./runs";
import { isCommon, placedElsewhere, type Property } from "./schema";
import { currentEndpoint, shortName, useApp, w } from "./state";
import { suggestionsFor } from "./suggestions";

export function Form() {
  const app = useApp();
  const endpoint = currentEndpoint();
  if (!endpoint) return null;
  const elsewhere = placedElsewhere(endpoint);
  const names = Object.keys(endpoint.properties).filter((name) => !elsewhere.has(name));
  const rare = names.filter((name) => !isCommon(name));
  const rareProblem = rare.some((name) => app.problems[name]);
  const text = w();
  return (
    <>
      <Inputs />
      <Instruction />
      <label class="field">
        <span>{text.model}</span>
        <select value={endpoint.id} onChange={(event) => chooseEndpoint(event.currentTarget.value)}>
          {app.endpoints.map(({ id }) => (
            <option key={id} value={id}>
              {shortName(id)}
            </option>
          ))}
        </select>
      </label>
      <div class="fields">
        {names.filter(isCommon).map((name) => (
          <Field key={name} name={name} property={endpoint.properties[name] as Property} />
        ))}
      </div>
      <details class="more" open={rareProblem || undefined}>
        <summary>{text.more}</summary>
        <div class="fields">
          {rare.map((name) => (
            <Field key={name} name={name} property={endpoint.properties[name] as Property} />
          ))}
        </div>
      </details>
    </>
  );
}

function Instruction() {
  const app = useApp();
  const text = w();
  const id = useId();
  const area = useRef<HTMLTextAreaElement>(null);
  const suggestions = suggestionsFor(app.model, app.language);
  const offered = [
    ...(app.draft.inputs.length > 1 && suggestions.twoImages ? [suggestions.twoImages] : []),
    suggestions.first,
    ...suggestions.more,
  ].filter((suggestion) => suggestion !== app.draft.prompt);
  useEffect(() => {
    // Focus is where the first key press does the most; a phone would answer with its keyboard.
    if (matchMedia("(pointer: fine)").matches) area.current?.focus({ preventScroll: true });
  }, []);
  const problem = app.problems["prompt"];
  return (
    <div class="instruction">
      <label for={id}>{text.instruction}</label>
      <textarea
        id={id}
        ref={area}
        rows={2}
        value={app.draft.prompt}
        aria-describedby={`${id}-hint`}
        aria-invalid={Boolean(problem)}
        onInput={(event) => change({ prompt: event.currentTarget.value })}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          void edit();
        }}
      />
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      <p class="hint" id={`${id}-hint`}>
        {text.instructionHint}
      </p>
      <Chips label={text.suggestions} offered={offered} />
    </div>
  );
}

export function Chips({ label, offered }: { label: string; offered: string[] }) {
  return (
    <ul class="chips" aria-label={label}>
      {offered.map((suggestion) => (
        <li key={suggestion}>
          <button type="button" class="chip" onClick={() => change({ prompt: suggestion })}>
            {suggestion}
          </button>
        </li>
      ))}
    </ul>
  );
}
