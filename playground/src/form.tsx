// What is entered, as a form made from the endpoint's schema, and the same as JSON. Both change one draft.

import { useEffect, useId, useRef, useState } from "preact/hooks";
import { Inputs } from "./inputs";
import { isCommon, NAMED_SIZES, placedElsewhere, sizeNames, type Property } from "./schema";
import {
  bodyOf,
  change,
  chooseEndpoint,
  currentEndpoint,
  edit,
  linksOf,
  runNamed,
  setValue,
  shortName,
  state,
  update,
  useApp,
  w,
  type Input,
} from "./state";
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

const titleOf = (name: string): string => {
  const spaced = name.replaceAll("_", " ");
  return w().fields[name] ?? spaced.charAt(0).toUpperCase() + spaced.slice(1);
};

/** One parameter with the widget its schema calls for. */
function Field({ name, property }: { name: string; property: Property }) {
  const app = useApp();
  const id = useId();
  const text = w();
  const value = app.draft.values[name];
  const problem = app.problems[name];
  const notice = noticeFor(name);
  const help = text.help[name] ?? property.description;
  const described = `${id}-help`;
  const shared = { id, "aria-describedby": described, "aria-invalid": Boolean(problem) };
  let widget;
  if (property.anyOf) widget = <SizePicker shared={shared} name={name} property={property} />;
  else if (property.type === "boolean") {
    widget = (
      <input
        {...shared}
        type="checkbox"
        role="switch"
        checked={Boolean(value ?? property.default)}
        onChange={(event) => setValue(name, event.currentTarget.checked === property.default ? undefined : event.currentTarget.checked)}
      />
    );
  } else if (property.enum) {
    widget = (
      <select {...shared} value={String(value ?? "")} onChange={(event) => setValue(name, event.currentTarget.value)}>
        <option value="">{String(property.default ?? text.automatic)}</option>
        {property.enum
          .filter((word) => word !== property.default)
          .map((word) => (
            <option key={word}>{word}</option>
          ))}
      </select>
    );
  } else if (property.type === "integer" || property.type === "number") {
    widget = (
      <input
        {...shared}
        type="text"
        inputMode="decimal"
        role="spinbutton"
        aria-valuemin={property.minimum}
        aria-valuemax={property.maximum}
        aria-valuenow={value === undefined ? undefined : Number(value)}
        placeholder={placeholderOf(name, property)}
        value={value === undefined ? "" : String(value)}
        onInput={(event) => setValue(name, event.currentTarget.value)}
        onKeyDown={(event) => {
          const by = event.key === "ArrowUp" ? 1 : event.key === "ArrowDown" ? -1 : 0;
          if (!by) return;
          event.preventDefault();
          const start = Number(value ?? (Number(placeholderOf(name, property)) || property.minimum || 0));
          const next = Math.max(property.minimum ?? -Infinity, Math.min(property.maximum ?? Infinity, start + by));
          setValue(name, String(next));
        }}
      />
    );
  } else {
    widget = (
      <input
        {...shared}
        type="text"
        placeholder={String(property.default ?? "").trim()}
        value={value === undefined ? "" : String(value)}
        onInput={(event) => setValue(name, event.currentTarget.value)}
      />
    );
  }
  const bounded = property.maximum !== undefined && property.maximum < 1e6;
  return (
    <div class={property.type === "boolean" ? "field switch" : "field"}>
      <label for={id}>
        {titleOf(name)}
        {bounded && <small> {text.range(property.minimum, property.maximum)}</small>}
      </label>
      {widget}
      {name === "seed" && <SeedLock />}
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {notice && <p class="note">{notice}</p>}
      <p class="hint" id={described}>
        {help}
        {name === "image_size" && app.estimate?.output && (
          <span class="canvas-size"> {text.canvas(app.estimate.canvas ?? app.estimate.output, app.estimate.output)}</span>
        )}
      </p>
    </div>
  );
}

/** The number an empty field stands for: what a dry run resolved, or the schema's default. */
function placeholderOf(name: string, property: Property): string {
  const { estimate } = state;
  if (name === "num_inference_steps" && estimate?.steps) return String(estimate.steps);
  if (name === "seed") return w().random;
  return String(property.default ?? w().automatic);
}

/** The notice of the last run on this parameter, as long as it is still set that way. */
function noticeFor(name: string): string | null {
  const { selected, draft } = state;
  const run = runNamed(selected);
  if (!run || run.draft.values[name] === undefined || run.draft.values[name] !== draft.values[name]) return null;
  return run.notices.find(({ parameter }) => parameter === name)?.detail ?? null;
}

function SeedLock() {
  const app = useApp();
  const last = app.runs.find((run) => run.seed !== null)?.seed ?? null;
  const locked = app.seedLocked && app.draft.values["seed"] !== undefined;
  if (last === null && !locked) return null;
  return (
    <label class="inline">
      <input
        type="checkbox"
        checked={locked}
        onChange={(event) => {
          update({ seedLocked: event.currentTarget.checked });
          setValue("seed", event.currentTarget.checked ? (last ?? undefined) : undefined);
        }}
      />
      {w().lockSeed}
    </label>
  );
}

interface SizeProps {
  shared: Record<string, unknown>;
  name: string;
  property: Property;
}

function SizePicker({ shared, name, property }: SizeProps) {
  const app = useApp();
  const text = w();
  const value = app.draft.values[name] as string | { width?: number; height?: number } | undefined;
  const own = typeof value === "object";
  const titled = (word: string) => {
    const size = NAMED_SIZES[word];
    return `${word.replaceAll("_", " ")}${size ? ` · ${size[0]} × ${size[1]}` : ""}`;
  };
  const side = (which: "width" | "height", label: string) => (
    <input
      type="number"
      min={1}
      aria-label={label}
      value={own ? value[which] : ""}
      onInput={(event) => setValue(name, { ...(own ? value : {}), [which]: Number(event.currentTarget.value) || undefined })}
    />
  );
  return (
    <>
      <select
        {...shared}
        value={own ? "custom" : (value ?? "")}
        onChange={(event) => {
          const chosen = event.currentTarget.value;
          setValue(name, chosen === "custom" ? { width: 512, height: 512 } : chosen);
        }}
      >
        <option value="">{property.default ? titled(String(property.default)) : text.asInput}</option>
        {sizeNames(property)
          .filter((word) => word in NAMED_SIZES && word !== property.default)
          .map((word) => (
            <option key={word} value={word}>
              {titled(word)}
            </option>
          ))}
        <option value="custom">{text.custom}</option>
      </select>
      {own && (
        <div class="row sides">
          {side("width", text.width)}
          <span aria-hidden="true">×</span>
          {side("height", text.height)}
        </div>
      )}
    </>
  );
}

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
