// One parameter of an endpoint, with the widget that its schema calls for.

import { useId } from "preact/hooks";
import { setValue } from "./draft";
import { ListField } from "./listfield";
import { noticeOfField } from "./notices";
import { NAMED_SIZES, sizeNames, type Property } from "./schema";
import { state, update, useApp, w } from "./state";

const titleOf = (name: string): string => {
  const spaced = name.replaceAll("_", " ");
  return w().fields[name] ?? spaced.charAt(0).toUpperCase() + spaced.slice(1);
};

/** One parameter with the widget its schema calls for. */
export function Field({ name, property }: { name: string; property: Property }) {
  const app = useApp();
  const id = useId();
  const text = w();
  const value = app.draft.values[name];
  const problem = app.problems[name];
  const notice = noticeOfField(name);
  const help = text.help[name] ?? property.description;
  const described = `${id}-help`;
  const shared = { id, "aria-describedby": described, "aria-invalid": Boolean(problem) };
  let widget;
  if (property.type === "array") widget = <ListField id={id} name={name} property={property} />;
  else if (property.anyOf) widget = <SizePicker shared={shared} name={name} property={property} />;
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
  const kind = property.type === "boolean" ? "field switch" : property.type === "array" ? "field list" : "field";
  return (
    <div class={kind}>
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
